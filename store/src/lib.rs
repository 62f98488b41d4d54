//! Versioned, authenticated state: typed collections over named stores, one durable batch a block.
#![deny(clippy::float_arithmetic, clippy::disallowed_types, clippy::disallowed_methods)]

pub mod backend;
pub mod collections;
pub mod db;
pub mod error;
pub mod key;
pub mod kv;
pub mod overlay;
pub mod proof;
mod row_cache;
pub mod sled;
pub mod tree;

pub use backend::{Backend, Table};
pub use collections::{Item, Map, Sequence, Set, Value, Walk};
pub use db::{Database, DbError, DbResult, Import, IndexChanges, Options, Prepared, Snapshot};
pub use error::{Error, Fault, Result, TxError};
pub use key::Key;
pub use kv::{Entries, Entry, KvRead, KvWrite, Range, StoreName};
pub use overlay::{Changes, Empty, Overlay};
pub use proof::{Proof, ProofOp};
pub use tree::{check_key, check_value, EntryError, Hash, MAX_KEY_LEN, MAX_VALUE_LEN};
