//! Inputs and outputs on disk, by digest, for as long as an auditor may ask for them.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::canon::Digest;

/// A folder of blobs, each under its BLAKE3 digest in hex.
#[derive(Clone, Debug)]
pub struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    /// The folder is made if it is missing, for its owner only: inputs are private.
    pub fn open(dir: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.into() })
    }

    /// Writes a blob durably, whole or not at all; answers its digest.
    pub fn put(&self, blob: &[u8]) -> io::Result<Digest> {
        let digest = *blake3::hash(blob).as_bytes();
        if self.get(&digest)?.is_some() {
            return Ok(digest);
        }
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(blob)?;
        file.as_file().sync_all()?;
        file.persist(self.path(&digest)).map_err(|e| e.error)?;
        File::open(&self.dir)?.sync_all()?;
        Ok(digest)
    }

    /// A blob, unless it is missing; one that a bad disk changed is missing too.
    pub fn get(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(digest)) {
            Ok(blob) => Ok((blake3::hash(&blob).as_bytes() == digest).then_some(blob)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Removes a blob, if it is there.
    pub fn remove(&self, digest: &Digest) -> io::Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(hex::encode(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_reads_back_until_it_is_removed_or_damaged() {
        let home = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&home.path().join("blobs")).unwrap();
        let (a, b) = (blobs.put(b"a").unwrap(), blobs.put(b"").unwrap());
        assert_eq!(blobs.put(b"a").unwrap(), a);
        assert_eq!((blobs.get(&a).unwrap(), blobs.get(&b).unwrap()), (Some(b"a".to_vec()), Some(vec![])));
        fs::write(blobs.path(&a), b"b").unwrap();
        assert_eq!(blobs.get(&a).unwrap(), None);
        blobs.put(b"a").unwrap();
        assert_eq!(blobs.get(&a).unwrap(), Some(b"a".to_vec()));
        blobs.remove(&a).unwrap();
        blobs.remove(&a).unwrap();
        assert_eq!(blobs.get(&a).unwrap(), None);
    }
}
