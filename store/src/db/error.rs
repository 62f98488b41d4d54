use std::io;
use std::path::PathBuf;

use crate::tree::EntryError;
use crate::StoreName;

/// A result of the database.
pub type DbResult<T> = Result<T, DbError>;

/// What can go wrong with the database. Within execution every one of these is a fault.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("{path}: another process uses this database")]
    InUse { path: PathBuf },
    #[error(
        "{path}: the database is damaged: {what}; put a copy of the directory in its place, or remove it and let the chain \
         be read again"
    )]
    Damaged { path: PathBuf, what: String },
    #[error("the state is inconsistent: {0}")]
    Inconsistent(String),
    #[error("{path}: a state sync did not finish here: remove the directory and start over")]
    Unfinished { path: PathBuf },
    #[error("{path}: database format {found} is not the one this binary reads, {want}")]
    Format { path: PathBuf, found: String, want: u32 },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("store {0:?} is unknown to this binary")]
    UnknownStore(String),
    #[error("store {store}: {reason}")]
    Entry { store: StoreName, reason: EntryError },
    #[error("index key {key:?}: value of {len} bytes: at most {max}")]
    IndexValue { key: Vec<u8>, len: usize, max: usize },
    #[error("height {height} cannot follow height {tip}")]
    Height { height: u64, tip: u64 },
    #[error("height {height}: prepared on a state that is not the committed one any more")]
    Stale { height: u64 },
    #[error("a commit failed before: the process must restart")]
    Broken,
    #[error("height {height} is not kept: heights {oldest} to {latest} are")]
    NotKept { height: u64, oldest: u64, latest: u64 },
    #[error("store {0} is empty at this height: nothing can be proved in it")]
    NothingToProve(String),
    #[error("the database is not empty: it is at height {0}")]
    NotEmpty(u64),
    #[error("the state at height {height} has app hash {found}, not {want}")]
    AppHash { height: u64, want: String, found: String },
    #[error("snapshots or prepared blocks of this database are still in use")]
    Shared,
}

impl From<DbError> for crate::Error {
    fn from(e: DbError) -> Self {
        crate::Error::fault(e)
    }
}
