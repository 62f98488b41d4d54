//! sled 0.34.7 as a backend, with what it needs to keep its word around it.
//!
//! - Its `flush` is `sync_file_range`, which a power cut may undo: the log file is fsynced before a commit returns.
//! - It creates files without fsyncing them or their directory: both happen once after open. A database that a power
//!   cut met while it was created would not open: it is created under another name and renamed when it is durable.
//! - A process that dies while sled writes `snap.*.generating` during open leaves a database that will not open again:
//!   such files are deleted before open, under a lock of our own.
//! - Items above an eighth of a megabyte leave its log for files of their own that are never fsynced: a value of more
//!   than 4 KiB is cut into pieces, so that not even a full node of them gets there.
//! - It takes whatever end of its log it cannot read for a torn write and forgets it: each batch is numbered, and the
//!   file LOCK holds the number of the last durable one, so that a damaged log is not mistaken for a shorter one.
//!
//! Everything is in one tree with the table as first byte of the key: batches are atomic within a tree only.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use parking_lot::RwLock;

use crate::backend::{Backend, Op, Table};
use crate::db::{DbError, DbResult};
use crate::Range;

/// Longest run of value bytes in one row. A leaf of sled holds up to 20 rows and must stay below 128 KiB.
const PIECE_LEN: usize = 4096;

/// Rows with the pieces of long values: 0xff, table, key, number of the piece.
const PIECES: u8 = 0xff;

/// The row that counts the batches.
const COUNT: [u8; 1] = [0xfe];

/// Last byte of a row: what stands before it is the value, or the number of its pieces.
const WHOLE: u8 = 0;
const IN_PIECES: u8 = 1;

/// A database directory of sled, locked for this process.
pub struct Sled {
    db: sled::Db,
    /// sled's log file, opened for fsync.
    log: File,
    path: PathBuf,
    /// Rows whose value is in pieces, and how many. Held exclusively while a batch is applied, so that nobody reads
    /// the row of one block and the pieces of another.
    long: RwLock<BTreeMap<Vec<u8>, u32>>,
    /// Declared last: given back when sled has closed its files. Its content is the number of the last batch that is
    /// known to be durable, or nothing readable.
    lock: File,
}

impl Sled {
    /// Opens or creates the database in `dir` with a page cache of `cache_bytes`.
    pub fn open(dir: &Path, cache_bytes: u64) -> DbResult<Self> {
        let io_error = |source| DbError::Io { path: dir.to_owned(), source };
        let damaged = |what| DbError::Damaged { path: dir.to_owned(), what };
        let lock = prepare_dir(dir).map_err(io_error)?;
        let mut lock = lock.ok_or_else(|| DbError::InUse { path: dir.to_owned() })?;
        let mut durable = String::new();
        // Unreadable is what a power cut may leave of it: then there is nothing to compare.
        let durable = lock.read_to_string(&mut durable).ok().and_then(|_| durable.trim().parse::<u64>().ok());
        let files = dir.join("sled");
        if !files.try_exists().map_err(io_error)? {
            create(dir, &files)?;
        }
        clear_unfinished_snapshots(&files).map_err(io_error)?;
        let db = open_sled(&files, cache_bytes)?;
        db.flush().map_err(|e| sled_error(dir, e))?;
        sync_tree(&files).map_err(io_error)?;
        let log = File::options().read(true).write(true).open(files.join("db")).map_err(io_error)?;
        let mut long = BTreeMap::new();
        for row in db.scan_prefix([PIECES]).keys() {
            let row = row.map_err(|e| sled_error(dir, e))?;
            let (key, _) =
                row[1..].split_last_chunk::<4>().ok_or_else(|| damaged("a piece without a number".into()))?;
            *long.entry(key.to_vec()).or_insert(0) += 1;
        }
        let sled = Sled { db, log, path: dir.to_owned(), long: RwLock::new(long), lock };
        match (durable, sled.count()?) {
            (Some(durable), count) if count < durable => {
                Err(damaged(format!("{durable} batches were written to it, {count} are left")))
            }
            _ => Ok(sled),
        }
    }

    /// How many batches were applied.
    fn count(&self) -> DbResult<u64> {
        match self.db.get(COUNT).map_err(|e| self.error(e))? {
            None => Ok(0),
            Some(row) => row.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| DbError::Damaged {
                path: self.path.clone(),
                what: "the count of batches is of unknown form".into(),
            }),
        }
    }

    fn error(&self, e: sled::Error) -> DbError {
        sled_error(&self.path, e)
    }

    /// The value of a row.
    fn value(&self, key: &[u8], row: &[u8]) -> DbResult<Vec<u8>> {
        let damaged = |what: &str| DbError::Damaged { path: self.path.clone(), what: what.into() };
        let (count, value) = match row.split_last() {
            Some((&WHOLE, value)) => return Ok(value.to_vec()),
            Some((&IN_PIECES, count)) => (
                count.try_into().map(u32::from_le_bytes).map_err(|_| damaged("a row of unknown form"))?,
                Vec::new(),
            ),
            _ => return Err(damaged("a row of unknown form")),
        };
        (0..count).try_fold(value, |mut value, number| {
            let piece = self.db.get(piece_key(key, number)).map_err(|e| self.error(e))?;
            value.extend_from_slice(&piece.ok_or_else(|| damaged("a piece of a value is missing"))?);
            Ok(value)
        })
    }
}

impl Backend for Sled {
    fn get(&self, table: Table, key: &[u8]) -> DbResult<Option<Vec<u8>>> {
        let key = row_key(table, key);
        let _reading = self.long.read();
        let row = self.db.get(&key).map_err(|e| self.error(e))?;
        row.map(|row| self.value(&key, &row)).transpose()
    }

    fn scan(&self, table: Table, range: &Range, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> DbResult<()> {
        let start = row_key(table, &range.start);
        let end = range.end.as_ref().map_or_else(|| vec![table.0 + 1], |end| row_key(table, end));
        if start >= end {
            return Ok(());
        }
        let _reading = self.long.read();
        let mut rows = self.db.range(start..end);
        while let Some(row) = if range.reverse { rows.next_back() } else { rows.next() } {
            let (key, row) = row.map_err(|e| self.error(e))?;
            if !visit(&key[1..], &self.value(&key, &row)?) {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, ops: Vec<Op>) -> DbResult<()> {
        let mut batch = sled::Batch::default();
        let mut long = self.long.write();
        let number = self.count()?.saturating_add(1);
        batch.insert(&COUNT, &number.to_be_bytes());
        // One buffer for all rows: sled copies them.
        let mut row = Vec::with_capacity(PIECE_LEN + 1);
        for Op { table, key, value } in ops {
            let key = row_key(table, &key);
            row.clear();
            let before = long.get(&key).copied().unwrap_or(0);
            let mut pieces = 0;
            match value {
                None => batch.remove(&*key),
                Some(value) if value.len() <= PIECE_LEN => {
                    row.extend_from_slice(&value);
                    row.push(WHOLE);
                    batch.insert(&*key, &*row);
                }
                Some(value) => {
                    for piece in value.chunks(PIECE_LEN) {
                        batch.insert(piece_key(&key, pieces), piece);
                        pieces += 1;
                    }
                    row.extend_from_slice(&pieces.to_le_bytes());
                    row.push(IN_PIECES);
                    batch.insert(&*key, &*row);
                }
            }
            (pieces..before).for_each(|number| batch.remove(piece_key(&key, number)));
            if pieces > 0 {
                long.insert(key, pieces);
            } else if before > 0 {
                long.remove(&key);
            }
        }
        self.db.apply_batch(batch).map_err(|e| self.error(e))?;
        drop(long);
        self.db.flush().map_err(|e| self.error(e))?;
        let io_error = |source| DbError::Io { path: self.path.clone(), source };
        self.log.sync_data().map_err(io_error)?;
        self.lock.write_all_at(format!("{number:020}\n").as_bytes(), 0).map_err(io_error)
    }
}

fn row_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + key.len());
    row.push(table.0);
    row.extend_from_slice(key);
    row
}

fn piece_key(row_key: &[u8], number: u32) -> Vec<u8> {
    [&[PIECES], row_key, &number.to_be_bytes()].concat()
}

/// Creates `dir` and locks it; `None` if another process holds the lock.
fn prepare_dir(dir: &Path) -> io::Result<Option<File>> {
    fs::create_dir_all(dir)?;
    let lock = File::options().create(true).truncate(false).read(true).write(true).open(dir.join("LOCK"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    if let Some(parent) = dir.canonicalize()?.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(Some(lock))
}

/// Creates an empty database that is at `files` whole, or not at all.
fn create(dir: &Path, files: &Path) -> DbResult<()> {
    let io_error = |source| DbError::Io { path: dir.to_owned(), source };
    let fresh = dir.join("sled.new");
    match fs::remove_dir_all(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(e)),
        _ => {}
    }
    let db = open_sled(&fresh, 1 << 20)?;
    db.flush().map_err(|e| sled_error(dir, e))?;
    drop(db);
    sync_tree(&fresh).map_err(io_error)?;
    fs::rename(&fresh, files).and_then(|()| File::open(dir)?.sync_all()).map_err(io_error)
}

fn clear_unfinished_snapshots(files: &Path) -> io::Result<()> {
    for entry in fs::read_dir(files)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// fsyncs every file and directory below `dir`, and `dir` itself.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

fn open_sled(dir: &Path, cache_bytes: u64) -> DbResult<sled::Db> {
    /// sled gives its own lock back from background threads, a moment after the last handle is gone.
    const PATIENCE: u32 = 500;
    let mut attempts = 0;
    loop {
        let config = sled::Config::new().path(dir).cache_capacity(cache_bytes);
        // Damage that sled did not foresee makes it panic.
        let opened = panic::catch_unwind(AssertUnwindSafe(|| config.open()));
        match opened {
            Err(cause) => {
                let cause = cause.downcast_ref::<String>().cloned();
                let cause = cause.unwrap_or_else(|| "its log cannot be read".into());
                return Err(DbError::Damaged { path: dir.to_owned(), what: cause });
            }
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(e))) if e.to_string().contains("could not acquire lock") => {
                attempts += 1;
                if attempts == PATIENCE {
                    return Err(DbError::InUse { path: dir.to_owned() });
                }
                thread::sleep(Duration::from_millis(10));
            }
            Ok(Err(e)) => return Err(sled_error(dir, e)),
        }
    }
}

fn sled_error(path: &Path, e: sled::Error) -> DbError {
    let path = path.to_owned();
    match e {
        sled::Error::Io(source) => DbError::Io { path, source },
        e => DbError::Damaged { path, what: e.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const T: Table = Table::index(0);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// Values of any length, overwritten and removed, read back the same before and after reopening, also through
        /// scans in both directions, and none of them makes sled open a file of its own.
        #[test]
        fn long_and_short_values(batches in prop::collection::vec(prop::collection::btree_map(
            prop::collection::vec(0u8..3, 0..4),
            prop::option::weighted(0.8, prop_oneof![0usize..10, 4090usize..4100, 8190usize..8200, 0usize..300_000]),
            0..12), 1..6)) {
            let dir = tempfile::tempdir().unwrap();
            let mut model = BTreeMap::new();
            for (n, batch) in batches.iter().enumerate() {
                let sled = Sled::open(dir.path(), 16 << 20).unwrap();
                let ops = batch.iter().map(|(key, len)| Op {
                    table: T, key: key.clone(), value: len.map(|len| vec![n as u8; len]),
                }).collect();
                sled.commit(ops).unwrap();
                for (key, len) in batch {
                    match len {
                        Some(len) => model.insert(key.clone(), vec![n as u8; *len]),
                        None => model.remove(key),
                    };
                }
                drop(sled);
                let sled = Sled::open(dir.path(), 16 << 20).unwrap();
                for reverse in [false, true] {
                    let mut seen = Vec::new();
                    let all = Range { start: vec![], end: None, reverse };
                    sled.scan(T, &all, &mut |k, v| { seen.push((k.to_vec(), v.to_vec())); true }).unwrap();
                    if reverse {
                        seen.reverse();
                    }
                    prop_assert!(seen == model.clone().into_iter().collect::<Vec<_>>());
                }
                for (key, value) in &model {
                    prop_assert!(sled.get(T, key).unwrap().as_ref() == Some(value));
                }
                let pieces = sled.db.scan_prefix([PIECES]).count();
                prop_assert_eq!(pieces, model.values().filter(|v| v.len() > PIECE_LEN)
                    .map(|v| v.len().div_ceil(PIECE_LEN)).sum::<usize>());
                prop_assert_eq!(fs::read_dir(dir.path().join("sled/blobs")).unwrap().count(), 0);
            }
        }
    }
}
