//! Rows of the state that were read or written lately, so that reading them again costs no walk through the engine's
//! pages. It holds committed values only, and the same ones that the engine would give.

use std::sync::Arc;

use parking_lot::RwLock;
use quick_cache::sync::Cache;
use quick_cache::Weighter;

use crate::backend::{Backend, Op, Table};
use crate::db::DbResult;
use crate::Range;

/// Bytes that a row takes besides key and value: two allocations, and its place in the cache.
const ROW_BYTES: u64 = 96;

/// Length of a usual row, from which the number of rows to make room for is guessed.
const USUAL_BYTES: u64 = 64;

/// A backend with a cache of the rows of [`Table::STATE`] before it.
pub struct RowCache<B> {
    backend: B,
    rows: Cache<Box<[u8]>, Arc<[u8]>, Weight>,
    bytes: u64,
    /// Held exclusively while a batch is written: what is read meanwhile may be of either block and is not kept.
    writing: RwLock<()>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Box<[u8]>, Arc<[u8]>> for Weight {
    fn weight(&self, key: &Box<[u8]>, value: &Arc<[u8]>) -> u64 {
        (key.len() + value.len()) as u64 + ROW_BYTES
    }
}

impl<B: Backend> RowCache<B> {
    /// A cache of about `bytes`, with as much of the state as fits.
    pub fn new(backend: B, bytes: u64) -> DbResult<Self> {
        let rows = Cache::with_weighter((bytes / (ROW_BYTES + USUAL_BYTES)) as usize, bytes, Weight);
        let cache = RowCache { backend, rows, bytes, writing: RwLock::new(()) };
        cache.fill()?;
        Ok(cache)
    }

    fn fill(&self) -> DbResult<()> {
        let all = Range { start: Vec::new(), end: None, reverse: false };
        self.backend.scan(Table::STATE, &all, &mut |key, value| {
            let row = (key.into(), value.into());
            let fits = self.rows.weight() + Weight.weight(&row.0, &row.1) <= self.bytes;
            if fits {
                self.rows.insert(row.0, row.1);
            }
            fits
        })
    }
}

impl<B: Backend> Backend for RowCache<B> {
    fn get(&self, table: Table, key: &[u8]) -> DbResult<Option<Vec<u8>>> {
        if table != Table::STATE {
            return self.backend.get(table, key);
        }
        if let Some(value) = self.rows.get(key) {
            return Ok(Some(value.to_vec()));
        }
        let quiet = self.writing.try_read();
        let value = self.backend.get(table, key)?;
        if let (Some(_), Some(value)) = (quiet, &value) {
            self.rows.insert(key.into(), value.as_slice().into());
        }
        Ok(value)
    }

    fn scan(&self, table: Table, range: &Range, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> DbResult<()> {
        self.backend.scan(table, range, visit)
    }

    fn commit(&self, ops: Vec<Op>) -> DbResult<()> {
        let rows: Vec<_> = ops
            .iter()
            .filter(|op| op.table == Table::STATE)
            .map(|op| (Box::<[u8]>::from(&*op.key), op.value.as_deref().map(Arc::<[u8]>::from)))
            .collect();
        let _writing = self.writing.write();
        if let Err(error) = self.backend.commit(ops) {
            // Which of them were written is not known.
            self.rows.clear();
            return Err(error);
        }
        for (key, value) in rows {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => {
                    self.rows.remove(&key);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Memory;
    use proptest::prelude::*;

    fn op(key: u8, value: Option<u8>) -> Op {
        Op { table: Table::STATE, key: vec![key], value: value.map(|value| vec![value; 40]) }
    }

    proptest! {
        /// Whatever is read, written and removed, and however little fits: every read is what the backend holds.
        #[test]
        fn reads_are_those_of_the_backend(
            blocks in prop::collection::vec(prop::collection::btree_map(0u8..40, prop::option::of(any::<u8>()), 0..8), 1..12),
            reads in prop::collection::vec(0u8..40, 0..60),
            bytes in 0u64..6000,
            before in 0u8..40,
        ) {
            let memory = Memory::default();
            memory.commit((0..before).map(|key| op(key, Some(key))).collect()).unwrap();
            let cache = RowCache::new(memory, bytes).unwrap();
            let mut reads = reads.iter().cycle();
            for block in blocks {
                for key in reads.by_ref().take(5) {
                    let want = cache.backend.get(Table::STATE, &[*key]).unwrap();
                    prop_assert_eq!(cache.get(Table::STATE, &[*key]).unwrap(), want);
                }
                cache.commit(block.into_iter().map(|(key, value)| op(key, value)).collect()).unwrap();
                for key in 0..40 {
                    let want = cache.backend.get(Table::STATE, &[key]).unwrap();
                    prop_assert_eq!(cache.get(Table::STATE, &[key]).unwrap(), want);
                }
                prop_assert!(cache.rows.weight() <= bytes);
            }
        }
    }

    /// While a batch is written, readers see either value and keep neither.
    #[test]
    fn a_commit_leaves_nothing_stale() {
        let cache = RowCache::new(Memory::default(), 1 << 20).unwrap();
        std::thread::scope(|threads| {
            threads.spawn(|| (0..2000u32).for_each(|n| cache.commit(vec![op(1, Some(n as u8))]).unwrap()));
            for _ in 0..2 {
                threads.spawn(|| (0..20_000).for_each(|_| drop(cache.get(Table::STATE, &[1]).unwrap())));
            }
        });
        assert_eq!(cache.get(Table::STATE, &[1]).unwrap(), Some(vec![(1999u32 % 256) as u8; 40]));
    }
}
