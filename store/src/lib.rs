//! Versioned, authenticated state: typed collections over named stores.

pub mod collections;
pub mod error;
pub mod key;
pub mod kv;
pub mod overlay;
pub mod proof;
pub mod tree;

pub use collections::{Item, Map, Sequence, Set, Value, Walk};
pub use error::{Error, Fault, Result, TxError};
pub use key::Key;
pub use kv::{Entries, Entry, KvRead, KvWrite, Range, StoreName};
pub use overlay::{Changes, Empty, Overlay};
pub use proof::{Proof, ProofOp};
pub use tree::{check_key, check_value, EntryError, Hash, MAX_KEY_LEN, MAX_VALUE_LEN};
