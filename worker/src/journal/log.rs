//! An append-only file of JSON lines, each synced to disk before the call returns.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::Serialize;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{} is in use: another process works with this key", path.display())]
    Locked { path: PathBuf },
    #[error("{}, line {line}: {reason}; a journal is not to be edited", path.display())]
    Damaged { path: PathBuf, line: usize, reason: String },
    #[error("{} is of {found}, not of {expected}", path.display())]
    Foreign { path: PathBuf, found: String, expected: String },
    #[error("task {task}: the journal has another request under this number; is the chain a new one with an old name?")]
    Request { task: u64 },
    #[error("task {0} is not in the journal")]
    Unknown(u64),
}

/// The file. It is locked for as long as it is open.
#[derive(Debug)]
pub struct Log<T> {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
    _lock: File,
    entries: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned> Log<T> {
    /// Opens or creates the file; answers its entries. A last line that a crash cut off was never acted on: it is
    /// removed.
    pub fn open(path: &Path) -> Result<(Self, Vec<T>), JournalError> {
        let io = |error| JournalError::Io { path: path.into(), error };
        let private = |path: &Path| {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
        };
        let lock_path = path.with_extension("lock");
        let lock = private(&lock_path).map_err(io)?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => JournalError::Locked { path: lock_path },
            TryLockError::Error(error) => io(error),
        })?;
        let mut file = private(path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let len = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1);
        let mut entries = Vec::new();
        for (n, line) in bytes[..len].split_inclusive(|b| *b == b'\n').enumerate() {
            entries.push(serde_json::from_slice(line).map_err(|e| JournalError::Damaged {
                path: path.into(),
                line: n + 1,
                reason: e.to_string(),
            })?);
        }
        let mut log = Self { path: path.into(), file, len: len as u64, _lock: lock, entries: PhantomData };
        log.cut().map_err(io)?;
        sync_folder(path).map_err(io)?;
        Ok((log, entries))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds an entry durably. After an error the entry is not in the file.
    pub fn append(&mut self, entry: &T) -> Result<(), JournalError> {
        self.append_all(std::slice::from_ref(entry))
    }

    /// Adds entries durably. After an error none of them is in the file; a crash before the return may leave the first
    /// ones.
    pub fn append_all(&mut self, entries: &[T]) -> Result<(), JournalError> {
        let lines: Vec<u8> = entries.iter().flat_map(Self::line).collect();
        let written =
            self.cut().and_then(|()| self.file.write_all(&lines)).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.len += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // If this fails too, the next append or open cuts it off.
                let _ = self.cut();
                Err(JournalError::Io { path: self.path.clone(), error })
            }
        }
    }

    /// Replaces all entries, at once.
    pub fn rewrite<'a>(&mut self, entries: impl Iterator<Item = &'a T>) -> Result<(), JournalError>
    where
        T: 'a,
    {
        let bytes: Vec<u8> = entries.flat_map(Self::line).collect();
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let replaced = (|| {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            let file = file.persist(&self.path).map_err(|e| e.error)?;
            sync_folder(&self.path)?;
            Ok(file)
        })();
        self.file = replaced.map_err(|error| JournalError::Io { path: self.path.clone(), error })?;
        self.len = bytes.len() as u64;
        Ok(())
    }

    fn line(entry: &T) -> Vec<u8> {
        let mut line = serde_json::to_vec(entry).expect("an entry is plain JSON");
        line.push(b'\n');
        line
    }

    /// Removes what lies behind the last whole line, and goes there.
    fn cut(&mut self) -> std::io::Result<()> {
        use std::io::{Seek, SeekFrom};
        self.file.set_len(self.len)?;
        self.file.seek(SeekFrom::Start(self.len)).map(|_| ())
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_process_at_a_time_and_damage_is_named() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.journal");
        let (mut log, entries) = Log::<u32>::open(&path).unwrap();
        assert!(entries.is_empty());
        log.append(&1).unwrap();
        assert!(matches!(Log::<u32>::open(&path), Err(JournalError::Locked { .. })));
        drop(log);
        std::fs::write(&path, "1\nx\n3\n").unwrap();
        let error = Log::<u32>::open(&path).unwrap_err().to_string();
        assert!(error.contains("a.journal, line 2:"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Wherever a crash cuts the file, the entries whose append returned before are there, and appending goes on.
        #[test]
        fn a_crash_loses_only_the_last_line(entries in prop::collection::vec("[a-z\n\"]{0,12}", 1..8), cut in 0usize..200) {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("a.journal");
            let (mut log, _) = Log::<String>::open(&path).unwrap();
            let mut ends = vec![0];
            for entry in &entries {
                log.append(entry).unwrap();
                ends.push(log.len);
            }
            drop(log);
            let cut = (cut as u64).min(*ends.last().unwrap());
            OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            let (mut log, found) = Log::<String>::open(&path).unwrap();
            prop_assert_eq!(&found, &entries[..whole]);
            log.append(&"next".to_string()).unwrap();
            drop(log);
            let (mut log, mut found) = Log::<String>::open(&path).unwrap();
            prop_assert_eq!(found.pop(), Some("next".to_string()));
            prop_assert_eq!(&found, &entries[..whole]);
            log.rewrite(found.iter().rev()).unwrap();
            log.append(&"last".to_string()).unwrap();
            drop(log);
            let (_, again) = Log::<String>::open(&path).unwrap();
            found.reverse();
            found.push("last".into());
            prop_assert_eq!(again, found);
        }
    }
}
