//! What every layer of state looks like: named stores of raw keys and values.

use crate::Result;

/// The name of a store; one a module, and the name that a proof's path starts with.
pub type StoreName = &'static str;

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Entries of a scan, in the order asked for.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<Entry>> + 'a>;

/// A half-open range of raw keys, walked upwards or downwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// First key inside.
    pub start: Vec<u8>,
    /// First key outside, or none for the end of the store.
    pub end: Option<Vec<u8>>,
    /// Greatest key first.
    pub reverse: bool,
}

impl Range {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: Vec<u8>) -> Self {
        let end = after_prefix(&prefix);
        Range { start: prefix, end, reverse: false }
    }

    /// The same range, walked the other way.
    pub fn reversed(mut self) -> Self {
        self.reverse = !self.reverse;
        self
    }

    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// The smallest key above every key that begins with `prefix`; none if there is no such key.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] = end[last].wrapping_add(1);
    Some(end)
}

/// State that can be read.
pub trait KvRead {
    /// The value of `key`, if any.
    fn get(&self, store: StoreName, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// Whether `key` is present.
    fn has(&self, store: StoreName, key: &[u8]) -> Result<bool> {
        Ok(self.get(store, key)?.is_some())
    }
    /// The entries of `range`. Callers bound what they take.
    fn scan<'a>(&'a self, store: StoreName, range: Range) -> Entries<'a>;
}

/// State that can be changed.
pub trait KvWrite: KvRead {
    /// Sets `key` to `value`.
    fn set(&mut self, store: StoreName, key: Vec<u8>, value: Vec<u8>) -> Result<()>;
    /// Removes `key`; a missing key is no error.
    fn remove(&mut self, store: StoreName, key: &[u8]) -> Result<()>;
}
