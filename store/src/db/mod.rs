//! The database of a node: named stores under one app hash, the last heights of them, and indexes beside them.
//!
//! Values are flat rows of a [`Backend`]; the Merkle trees are in memory and rebuilt at open, where the app hash that
//! was stored with the state must come out again. FinalizeBlock calls [`Database::prepare`], which computes the app
//! hash and writes nothing; Commit calls [`Database::commit`], which writes everything of the block in one atomic,
//! durable batch: state, height, app hash, indexes, and what is needed to take the block back.

mod error;
mod import;
mod load;
mod record;
mod snapshot;
#[cfg(test)]
mod tests;
mod version;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rayon::prelude::*;

pub use error::{DbError, DbResult};
pub use import::Import;
pub use snapshot::Snapshot;

use crate::backend::{Backend, Op, Table};
use crate::kv::after_prefix;
use crate::overlay::Changes;
use crate::row_cache::RowCache;
use crate::sled::Sled;
use crate::tree::{Hash, MAX_VALUE_LEN};
use crate::{Range, StoreName};
use record::{Tip, Undo, TIP_KEY};
use version::{Next, Version};

/// Writes to index tables; `None` removes the key.
pub type IndexChanges = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// How to open a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes for caches: four fifths for the backend's pages, as it counts them, one for rows of the state that were read
    /// or written lately, or fitted when the database was opened. A bound on what a large state may take; little of it is
    /// used by a small one. A million keys want 1280 MiB; with a quarter of it a block takes more than twice as long.
    pub cache_bytes: u64,
    /// How many heights before the latest stay readable and provable, and can be rolled back to.
    pub keep: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { cache_bytes: 1280 << 20, keep: 100 }
    }
}

/// See the [module](self).
pub struct Database {
    backend: Arc<dyn Backend>,
    stores: Vec<StoreName>,
    path: PathBuf,
    keep: u64,
    /// Kept heights, latest last; never empty.
    versions: RwLock<VecDeque<Arc<Version>>>,
    writing: Mutex<()>,
}

/// A block that is computed but not written. Dropping it leaves no trace.
pub struct Prepared {
    base: Arc<Version>,
    next: Next,
    ops: Vec<Op>,
}

impl Prepared {
    /// The height that the block would commit.
    pub fn height(&self) -> u64 {
        self.next.version.height
    }

    /// The app hash after the block.
    pub fn app_hash(&self) -> Hash {
        self.next.version.app_hash
    }
}

impl Database {
    /// Opens or creates the database in `dir`. `stores` are the names that this binary knows. `progress` hears how many
    /// entries were read so far; a million takes a few seconds.
    pub fn open(
        dir: &Path,
        stores: &[StoreName],
        options: &Options,
        progress: &mut dyn FnMut(u64),
    ) -> DbResult<Self> {
        let rows = options.cache_bytes / 5;
        let backend = RowCache::new(Sled::open(dir, options.cache_bytes - rows)?, rows)?;
        Self::with_backend(Arc::new(backend), dir, stores, options, progress)
    }

    /// Opens the database on a backend; `path` is only named in errors.
    pub fn with_backend(
        backend: Arc<dyn Backend>,
        path: &Path,
        stores: &[StoreName],
        options: &Options,
        progress: &mut dyn FnMut(u64),
    ) -> DbResult<Self> {
        let mut stores = stores.to_vec();
        stores.sort_unstable();
        stores.dedup();
        let keep = options.keep;
        let versions = load::versions(&*backend, path, &stores, keep, progress)?;
        let versions = RwLock::new(versions);
        Ok(Database { backend, stores, path: path.to_owned(), keep, versions, writing: Mutex::new(()) })
    }

    /// The names of the stores, in the order in which the app hash has them.
    pub fn stores(&self) -> &[StoreName] {
        &self.stores
    }

    /// The committed height, 0 before the first block.
    pub fn height(&self) -> u64 {
        self.tip().height
    }

    /// The lowest height that is kept.
    pub fn oldest(&self) -> u64 {
        self.versions.read().front().map_or(0, |version| version.height)
    }

    /// The app hash of the committed height.
    pub fn app_hash(&self) -> Hash {
        self.tip().app_hash
    }

    /// The committed state.
    pub fn latest(&self) -> Snapshot {
        Snapshot { backend: self.backend.clone(), version: self.tip() }
    }

    /// The state at a kept height.
    pub fn at(&self, height: u64) -> DbResult<Snapshot> {
        let versions = self.versions.read();
        match versions.binary_search_by_key(&height, |version| version.height) {
            Ok(index) => Ok(Snapshot { backend: self.backend.clone(), version: versions[index].clone() }),
            Err(_) => {
                let (oldest, latest) = (versions[0].height, versions[versions.len() - 1].height);
                Err(DbError::NotKept { height, oldest, latest })
            }
        }
    }

    /// The value of a key of an index table, as of the last commit.
    pub fn index_get(&self, table: Table, key: &[u8]) -> DbResult<Option<Vec<u8>>> {
        self.backend.get(table, key)
    }

    /// Shows the entries of an index table in the range's direction until `visit` returns false; `visit` must not call
    /// the database. Entries written by a commit that runs meanwhile may or may not be seen.
    pub fn index_scan(
        &self,
        table: Table,
        range: &Range,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> DbResult<()> {
        self.backend.scan(table, range, visit)
    }

    /// Computes a block: `changes` to the stores, which give the app hash, and `index` writes beside it. The first block
    /// may have any height, later ones follow each other.
    pub fn prepare(&self, height: u64, changes: Changes, index: IndexChanges) -> DbResult<Prepared> {
        let base = self.tip();
        if height == 0 || (base.height != 0 && base.height.checked_add(1) != Some(height)) {
            return Err(DbError::Height { height, tip: base.height });
        }
        if let Some(store) = changes.keys().find(|store| self.stores.binary_search(store).is_err()) {
            return Err(DbError::UnknownStore((*store).into()));
        }
        if let Some(((_, key), value)) =
            index.iter().find_map(|(k, v)| Some((k, v.as_ref().filter(|v| v.len() > MAX_VALUE_LEN)?)))
        {
            return Err(DbError::IndexValue { key: key.clone(), len: value.len(), max: MAX_VALUE_LEN });
        }
        let state = changes.iter().flat_map(|(store, changes)| {
            changes.keys().map(move |key| (Table::STATE, state_key(store, key)))
        });
        let rows: Vec<_> = state.chain(index.keys().cloned()).collect();
        let (trees, old) = rayon::join(
            || version::apply(base.trees()?, &changes),
            || {
                let read = |(table, key): &(Table, Vec<u8>)| self.backend.get(*table, key);
                rows.par_iter().with_min_len(64).map(read).collect::<DbResult<Vec<_>>>()
            },
        );
        let (version, old) = (Version::tip(height, trees?), old?);

        // The changes become what undoes them, in the order of the rows, and the new values go into the batch. What does
        // not change is neither written nor undone.
        let before = Tip { height: base.height, app_hash: base.app_hash };
        let mut undo = Undo { before, state: changes, index };
        let mut ops = Vec::with_capacity(rows.len() + 3);
        let mut rows = rows.into_iter().zip(old);
        let mut swap = |value: &mut Option<Vec<u8>>| {
            let Some(((table, key), old)) = rows.next() else { return false };
            let new = std::mem::replace(value, old);
            let changed = new != *value;
            if changed {
                ops.push(Op { table, key, value: new });
            }
            changed
        };
        undo.state.values_mut().for_each(|changes| changes.retain(|_, value| swap(value)));
        undo.state.retain(|_, changes| !changes.is_empty());
        undo.index.retain(|_, value| swap(value));

        ops.push(Op { table: Table::UNDO, key: height.to_be_bytes().into(), value: Some(undo.encode()) });
        if let Some(pruned) = height.checked_sub(self.keep).filter(|pruned| *pruned > 0) {
            ops.push(Op { table: Table::UNDO, key: pruned.to_be_bytes().into(), value: None });
        }
        ops.push(tip_op(Tip { height, app_hash: version.app_hash }));
        Ok(Prepared { base, next: Next { undo: undo.state, version }, ops })
    }

    /// Writes a prepared block: when this returns, the block survives a power cut; if the process dies before, all of
    /// it is there or nothing. An error other than [`DbError::Stale`] leaves the database unusable until reopened.
    pub fn commit(&self, prepared: Prepared) -> DbResult<Hash> {
        let _writing = self.writing.lock();
        let Prepared { base, next, ops } = prepared;
        let version = next.version.clone();
        if !Arc::ptr_eq(&base, &self.tip()) {
            return Err(DbError::Stale { height: version.height });
        }
        // Readers must find the link before they can find anything that the batch wrote.
        if !base.link(next) {
            return Err(DbError::Broken);
        }
        self.backend.commit(ops)?;
        let app_hash = version.app_hash;
        let mut versions = self.versions.write();
        versions.push_back(version);
        let dropped =
            if versions.len() as u64 > self.keep.saturating_add(1) { versions.pop_front() } else { None };
        drop(versions);
        drop(dropped);
        Ok(app_hash)
    }

    /// Takes the last block back, index writes included, and returns the database at the height before. For an operator
    /// whose CometBFT was rolled back too; needs the database for itself.
    pub fn rollback(self) -> DbResult<Self> {
        let Database { backend, stores, path, keep, versions, .. } = self;
        drop(versions);
        if Arc::strong_count(&backend) > 1 {
            return Err(DbError::Shared);
        }
        let tip = load::tip(&*backend, &path)?;
        let key = tip.height.to_be_bytes();
        let undo = backend.get(Table::UNDO, &key)?;
        let undo = undo.ok_or(DbError::NotKept {
            height: tip.height.saturating_sub(1),
            oldest: tip.height,
            latest: tip.height,
        })?;
        let undo = Undo::decode(&undo, &stores).map_err(DbError::Inconsistent)?;
        let state = undo.state.into_iter().flat_map(|(store, changes)| {
            changes.into_iter().map(|(key, value)| Op {
                table: Table::STATE,
                key: state_key(store, &key),
                value,
            })
        });
        let index = undo.index.into_iter().map(|((table, key), value)| Op { table, key, value });
        let mut ops: Vec<_> = state.chain(index).collect();
        ops.push(Op { table: Table::UNDO, key: key.into(), value: None });
        ops.push(tip_op(undo.before));
        backend.commit(ops)?;
        let options = Options { keep, ..Options::default() };
        Self::with_backend(backend, &path, &stores, &options, &mut |_| {})
    }

    /// Starts filling an empty database from a state sync snapshot.
    pub fn import(self) -> DbResult<Import> {
        Import::start(self)
    }

    fn tip(&self) -> Arc<Version> {
        let versions = self.versions.read();
        versions[versions.len() - 1].clone()
    }
}

/// Key of the table STATE: names of stores have no zero byte, so that keys of two stores never meet.
fn state_key(store: &str, key: &[u8]) -> Vec<u8> {
    [store.as_bytes(), &[0], key].concat()
}

/// The rows of a range of a store.
fn state_range(store: &str, range: &Range) -> Range {
    let end = match &range.end {
        Some(end) => Some(state_key(store, end)),
        None => after_prefix(&state_key(store, &[])),
    };
    Range { start: state_key(store, &range.start), end, reverse: range.reverse }
}

/// A range as the standard library wants it.
fn bounds(range: &Range) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let start = range.start.as_slice();
    let end = match &range.end {
        Some(end) => Bound::Excluded(end.as_slice().max(start)),
        None => Bound::Unbounded,
    };
    (Bound::Included(start), end)
}

fn tip_op(tip: Tip) -> Op {
    let value = (tip.height > 0).then(|| borsh::to_vec(&tip).expect("a Vec takes every byte"));
    Op { table: Table::META, key: TIP_KEY.into(), value }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
