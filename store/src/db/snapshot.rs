use std::collections::BTreeMap;
use std::sync::Arc;
use std::vec;

use super::version::Version;
use super::{bounds, state_key, state_range, DbError, DbResult};
use crate::backend::{Backend, Table};
use crate::tree::Hash;
use crate::{proof, Entries, Entry, KvRead, Proof, Range, Result, StoreName};

/// The state at one height. Cheap to clone, and unchanging while later blocks are committed; what it needs of them is
/// kept in memory as long as it is held.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) version: Arc<Version>,
}

impl Snapshot {
    /// The height, 0 before the first block.
    pub fn height(&self) -> u64 {
        self.version.height
    }

    /// The app hash after this height.
    pub fn app_hash(&self) -> Hash {
        self.version.app_hash
    }

    /// The value of `key`, if any, with a proof of it or of its absence.
    pub fn prove(&self, store: &str, key: &[u8]) -> DbResult<(Option<Vec<u8>>, Proof)> {
        let empty = || DbError::NothingToProve(store.into());
        let trees = self.version.trees()?;
        let tree = trees.get(store).ok_or_else(empty)?;
        let value = |key: &[u8]| {
            self.read(store, key)?
                .ok_or_else(|| DbError::Inconsistent(format!("{store}: a leaf without a value")))
        };
        let in_store = proof::prove_key(tree, key, value)?.ok_or_else(empty)?;
        let roots: Vec<_> = trees.iter().map(|(name, tree)| (*name, tree.root())).collect();
        let in_root = proof::prove_store(&roots, store).ok_or_else(empty)?;
        Ok((self.read(store, key)?, Proof { store: in_store, root: in_root }))
    }

    fn read(&self, store: &str, key: &[u8]) -> DbResult<Option<Vec<u8>>> {
        // The backend first, then the links: see `version`.
        let value = self.backend.get(Table::STATE, &state_key(store, key))?;
        let old = self.version.later().find_map(|undo| undo.get(store)?.get(key));
        Ok(old.cloned().unwrap_or(value))
    }
}

impl KvRead for Snapshot {
    fn get(&self, store: StoreName, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.read(store, key)?)
    }

    fn scan<'a>(&'a self, store: StoreName, range: Range) -> Entries<'a> {
        Box::new(Scan { snapshot: self, store, rest: Some(range), batch: Vec::new().into_iter(), size: 16 })
    }
}

/// Entries in batches that grow, since most callers stop early.
struct Scan<'a> {
    snapshot: &'a Snapshot,
    store: StoreName,
    /// What was not read yet.
    rest: Option<Range>,
    batch: vec::IntoIter<Entry>,
    size: usize,
}

impl Iterator for Scan<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.batch.next() {
                return Some(Ok(entry));
            }
            let range = self.rest.take()?;
            match self.read(range) {
                Ok(entries) => self.batch = entries.into_iter(),
                Err(e) => return Some(Err(e.into())),
            }
        }
    }
}

impl Scan<'_> {
    /// The first entries of `range`; what lies behind them is put back into `rest`.
    fn read(&mut self, mut range: Range) -> DbResult<Vec<Entry>> {
        const MOST: usize = 1024;
        let (mut entries, size) = (Vec::new(), self.size);
        self.size = (size * 2).min(MOST);
        let prefix = self.store.len() + 1;
        let rows = state_range(self.store, &range);
        self.snapshot.backend.scan(Table::STATE, &rows, &mut |key, value| {
            entries.push((key[prefix..].to_vec(), value.to_vec()));
            entries.len() < size
        })?;
        if entries.len() == size {
            // From here on `range` is what the entries cover, the last one included.
            let last = entries[size - 1].0.clone();
            let mut rest = range.clone();
            if range.reverse {
                range.start = last.clone();
                rest.end = Some(last);
            } else {
                rest.start = [last.as_slice(), &[0]].concat();
                range.end = Some(rest.start.clone());
            }
            self.rest = Some(rest);
        }
        let mut old = BTreeMap::new();
        for undo in self.snapshot.version.later().filter_map(|undo| undo.get(self.store)) {
            for (key, value) in undo.range::<[u8], _>(bounds(&range)) {
                old.entry(key).or_insert(value);
            }
        }
        if old.is_empty() {
            return Ok(entries);
        }
        let mut merged: BTreeMap<_, _> = entries.into_iter().collect();
        for (key, value) in old {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        let entries = merged.into_iter();
        Ok(if range.reverse { entries.rev().collect() } else { entries.collect() })
    }
}
