use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::file::ModelFile;
use super::kind::Kind;

/// Texts of a model that become tokens at a time: each may take a gigabyte for a text of the greatest length, and a chat a
/// process besides.
const AT_ONCE: usize = 2;

/// Where those wait who want a model to read texts.
#[derive(Debug)]
pub(super) struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl<A: Kind + 'static> ModelFile<A> {
    /// Runs `read`, which makes tokens of texts, on a thread where it may block, when its turn comes. Who goes away while it
    /// waits has run nothing; what has begun keeps its turn to its end, so that no more threads than turns are ever taken. An
    /// error if it panicked.
    pub async fn reading<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Nobody closes the semaphore.
        let turn = self.readers.0.clone().acquire_owned().await.ok();
        let model = self.clone();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read(&model)
        })
        .await
    }
}
