//! Versioned, authenticated state: typed collections over named stores.

pub mod collections;
pub mod error;
pub mod key;
pub mod kv;
pub mod overlay;

pub use collections::{Item, Map, Sequence, Set, Value, Walk};
pub use error::{Error, Fault, Result, TxError};
pub use key::Key;
pub use kv::{Entries, Entry, KvRead, KvWrite, Range, StoreName};
pub use overlay::{Changes, Empty, Overlay};
