//! Weights lie in memory for months, where a bit may flip, or on a disk that rots: they are read again every hour.
//! A worker that goes on with other weights would be convicted, and an auditor pay for its verdicts.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Kind, ModelFile};

pub const EVERY: Duration = Duration::from_secs(3600);

/// Compares all weights with their models' ids, again and again; returns the first difference. What an engine copied
/// into huge pages is not looked at.
pub async fn watch<A: Kind>(models: Vec<Arc<ModelFile<A>>>, every: Duration) -> anyhow::Error {
    loop {
        tokio::time::sleep(every).await;
        for model in &models {
            let (name, model) = (model.path().display().to_string(), model.clone());
            let verified = tokio::task::spawn_blocking(move || model.verify()).await;
            if let Err(error) = verified.map_err(anyhow::Error::from).and_then(|r| r.map_err(Into::into)) {
                return error.context(format!("{name} changed while it was in use"));
            }
            tracing::debug!(model = name, "weights rechecked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{dequant::Encoding, import, synthetic, Model};
    use std::io::{Read, Seek, SeekFrom, Write};

    #[tokio::test]
    async fn a_weight_that_changes_ends_the_watch() {
        let folder = tempfile::tempdir().unwrap();
        let gguf = folder.path().join("small.gguf");
        std::fs::write(&gguf, synthetic::gguf(&synthetic::small(), Encoding::F16, 7)).unwrap();
        let path = import(&gguf, folder.path(), &|_| {}).unwrap().path;
        let model = Arc::new(Model::open(&path).unwrap());
        let watch = tokio::spawn(watch(vec![model], Duration::from_millis(5)));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!watch.is_finished());
        let mut file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.seek(SeekFrom::End(-4096)).unwrap();
        file.read_exact(&mut byte).unwrap();
        file.seek(SeekFrom::End(-4096)).unwrap();
        file.write_all(&[byte[0] ^ 1]).unwrap();
        let error = tokio::time::timeout(Duration::from_secs(10), watch).await.unwrap().unwrap();
        assert!(format!("{error:#}").contains("changed while it was in use"), "{error:#}");
    }
}
