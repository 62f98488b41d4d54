//! What the database asks of a key-value engine: tables named by one byte, and one atomic, durable batch at a time.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::RwLock;

use crate::db::DbResult;
use crate::Range;

/// A table of the flat database. The first 64 are the store's own; the others are indexes outside the app hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(pub(crate) u8);

impl Table {
    /// Format and tip.
    pub(crate) const META: Table = Table(0);
    /// The state: store, 0x00, key -> value.
    pub(crate) const STATE: Table = Table(1);
    /// Height -> what undoes the block.
    pub(crate) const UNDO: Table = Table(2);

    const FIRST_INDEX: u8 = 64;
    const INDEXES: u8 = 128;

    /// Index table number `n`, below 128: written in the same batch as the state, but outside the app hash.
    pub const fn index(n: u8) -> Table {
        assert!(n < Self::INDEXES, "index tables are numbered 0 to 127");
        Table(Self::FIRST_INDEX + n)
    }
}

/// One write of a batch: sets `key`, or removes it if there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub table: Table,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// An ordered key-value engine. Any number of readers, one writer.
pub trait Backend: Send + Sync {
    /// The value of `key`, if any.
    fn get(&self, table: Table, key: &[u8]) -> DbResult<Option<Vec<u8>>>;

    /// Shows the entries of `range` in its direction until `visit` returns false. Each entry is some committed value;
    /// entries that a commit changes during the walk may be seen before or after it. `visit` must not call back.
    fn scan(&self, table: Table, range: &Range, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> DbResult<()>;

    /// Applies all writes or none, no key twice; durable when it returns.
    fn commit(&self, ops: Vec<Op>) -> DbResult<()>;
}

/// A backend without a disk, for tests and tools: nothing outlives it.
#[derive(Default)]
pub struct Memory {
    rows: RwLock<Rows>,
}

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

impl Backend for Memory {
    fn get(&self, table: Table, key: &[u8]) -> DbResult<Option<Vec<u8>>> {
        Ok(self.rows.read().get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, range: &Range, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> DbResult<()> {
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Ok(());
        }
        let rows = self.rows.read();
        let end = match &range.end {
            Some(end) => (table, end.clone()),
            None => (Table(table.0 + 1), Vec::new()),
        };
        let mut inside = rows.range((Bound::Included((table, range.start.clone())), Bound::Excluded(end)));
        let mut next = || if range.reverse { inside.next_back() } else { inside.next() };
        while next().is_some_and(|((_, key), value)| visit(key, value)) {}
        Ok(())
    }

    fn commit(&self, ops: Vec<Op>) -> DbResult<()> {
        let mut rows = self.rows.write();
        for op in ops {
            match op.value {
                Some(value) => rows.insert((op.table, op.key), value),
                None => rows.remove(&(op.table, op.key)),
            };
        }
        Ok(())
    }
}
