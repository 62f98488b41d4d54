//! Typed views of a named store, constructed as constants: `const BALANCES: Map<Address, u128> = Map::new("bank", 2)`.
//!
//! A collection owns one prefix byte of its store. Values are borsh: one encoding for a value, and decoding is strict.

use std::marker::PhantomData;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::kv::{after_prefix, Entry, KvRead, KvWrite, Range, StoreName};
use crate::{Error, Key, Result};

/// A value of a collection.
pub trait Value: BorshSerialize + BorshDeserialize {}
impl<T: BorshSerialize + BorshDeserialize> Value for T {}

fn decode_value<V: Value>(store: StoreName, key: &[u8], bytes: &[u8]) -> Result<V> {
    V::try_from_slice(bytes)
        .map_err(|e| Error::fault(format!("store {store}, key {}: value does not decode: {e}", hex(key))))
}

fn encode_value<V: Value>(value: &V) -> Result<Vec<u8>> {
    borsh::to_vec(value).map_err(Error::fault)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where a walk over a collection starts and which way it goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk<'a> {
    /// Skip everything up to and including this raw key (as returned by a page before).
    pub after: Option<&'a [u8]>,
    /// Greatest key first.
    pub reverse: bool,
}

impl Walk<'static> {
    /// Smallest key first, from the start.
    pub const FORWARD: Self = Walk { after: None, reverse: false };
    /// Greatest key first, from the end.
    pub const REVERSE: Self = Walk { after: None, reverse: true };
}

/// The part of the keys with `prefix` that `walk` asks for; `after` comes from clients and never leads out of it.
fn range(prefix: Vec<u8>, walk: Walk<'_>) -> Range {
    let mut range = Range { end: after_prefix(&prefix), start: prefix, reverse: walk.reverse };
    match walk.after {
        Some(key) if walk.reverse => {
            let key = key.to_vec().max(range.start.clone());
            range.end = Some(range.end.map_or(key.clone(), |end| end.min(key)));
        }
        Some(key) => {
            let mut next = key.to_vec();
            next.push(0);
            range.start = next.max(range.start);
            range.start = range.end.clone().map_or(range.start.clone(), |end| end.min(range.start));
        }
        None => {}
    }
    range
}

/// A map from `K` to `V`.
pub struct Map<K, V> {
    store: StoreName,
    prefix: u8,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Value> Map<K, V> {
    /// The map under `prefix` of `store`.
    pub const fn new(store: StoreName, prefix: u8) -> Self {
        Map { store, prefix, types: PhantomData }
    }

    /// The raw key of `key`, as proofs name it.
    pub fn raw_key(&self, key: &K) -> Vec<u8> {
        let mut raw = vec![self.prefix];
        key.encode(&mut raw);
        raw
    }

    /// The value of `key`, if any.
    pub fn get(&self, kv: &(impl KvRead + ?Sized), key: &K) -> Result<Option<V>> {
        let raw = self.raw_key(key);
        kv.get(self.store, &raw)?.map(|bytes| decode_value(self.store, &raw, &bytes)).transpose()
    }

    /// Whether `key` is present.
    pub fn has(&self, kv: &(impl KvRead + ?Sized), key: &K) -> Result<bool> {
        kv.has(self.store, &self.raw_key(key))
    }

    /// Sets the value of `key`.
    pub fn set(&self, kv: &mut (impl KvWrite + ?Sized), key: &K, value: &V) -> Result<()> {
        kv.set(self.store, self.raw_key(key), encode_value(value)?)
    }

    /// Removes `key`.
    pub fn remove(&self, kv: &mut (impl KvWrite + ?Sized), key: &K) -> Result<()> {
        kv.remove(self.store, &self.raw_key(key))
    }

    /// All entries. Callers bound what they take.
    pub fn iter<'a>(
        &'a self,
        kv: &'a (impl KvRead + ?Sized),
        walk: Walk<'_>,
    ) -> impl Iterator<Item = Result<(K, V)>> + 'a {
        self.entries(kv, vec![self.prefix], walk)
    }

    /// The entries whose key begins with `head`, which must be a leading part of `K` (the first of a tuple).
    pub fn iter_from<'a>(
        &'a self,
        kv: &'a (impl KvRead + ?Sized),
        head: &impl Key,
        walk: Walk<'_>,
    ) -> impl Iterator<Item = Result<(K, V)>> + 'a {
        let mut prefix = vec![self.prefix];
        head.encode(&mut prefix);
        self.entries(kv, prefix, walk)
    }

    /// The entries with keys below `end`, smallest first: the front of a queue keyed by height or time.
    pub fn iter_below<'a>(
        &'a self,
        kv: &'a (impl KvRead + ?Sized),
        end: &impl Key,
    ) -> impl Iterator<Item = Result<(K, V)>> + 'a {
        let mut raw_end = vec![self.prefix];
        end.encode(&mut raw_end);
        let range = Range { start: vec![self.prefix], end: Some(raw_end), reverse: false };
        kv.scan(self.store, range).map(move |entry| self.decode(entry?))
    }

    fn entries<'a>(
        &'a self,
        kv: &'a (impl KvRead + ?Sized),
        prefix: Vec<u8>,
        walk: Walk<'_>,
    ) -> impl Iterator<Item = Result<(K, V)>> + 'a {
        kv.scan(self.store, range(prefix, walk)).map(move |entry| self.decode(entry?))
    }

    fn decode(&self, (raw, value): Entry) -> Result<(K, V)> {
        let mut rest = raw.get(1..).unwrap_or_default();
        let key = K::decode(&mut rest).filter(|_| rest.is_empty()).ok_or_else(|| {
            Error::fault(format!("store {}, key {}: does not decode", self.store, hex(&raw)))
        })?;
        Ok((key, decode_value(self.store, &raw, &value)?))
    }
}

/// A single value.
pub struct Item<V> {
    map: Map<(), V>,
}

impl<V: Value> Item<V> {
    /// The item under `prefix` of `store`.
    pub const fn new(store: StoreName, prefix: u8) -> Self {
        Item { map: Map::new(store, prefix) }
    }

    /// The raw key, as proofs name it.
    pub fn raw_key(&self) -> Vec<u8> {
        self.map.raw_key(&())
    }

    /// The value, if it was ever set.
    pub fn get(&self, kv: &(impl KvRead + ?Sized)) -> Result<Option<V>> {
        self.map.get(kv, &())
    }

    /// The value of an item that genesis always sets.
    pub fn load(&self, kv: &(impl KvRead + ?Sized)) -> Result<V> {
        self.get(kv)?.ok_or_else(|| {
            Error::fault(format!("store {}: item {:#04x} was never set", self.map.store, self.map.prefix))
        })
    }

    /// Sets the value.
    pub fn set(&self, kv: &mut (impl KvWrite + ?Sized), value: &V) -> Result<()> {
        self.map.set(kv, &(), value)
    }

    /// Removes the value.
    pub fn remove(&self, kv: &mut (impl KvWrite + ?Sized)) -> Result<()> {
        self.map.remove(kv, &())
    }
}

/// A set of keys. A member stores one byte, since ICS23 cannot prove an empty value.
pub struct Set<K> {
    map: Map<K, u8>,
}

impl<K: Key> Set<K> {
    /// The set under `prefix` of `store`.
    pub const fn new(store: StoreName, prefix: u8) -> Self {
        Set { map: Map::new(store, prefix) }
    }

    /// The raw key of `key`, as proofs name it.
    pub fn raw_key(&self, key: &K) -> Vec<u8> {
        self.map.raw_key(key)
    }

    /// Whether `key` is a member.
    pub fn has(&self, kv: &(impl KvRead + ?Sized), key: &K) -> Result<bool> {
        self.map.has(kv, key)
    }

    /// Adds `key`.
    pub fn insert(&self, kv: &mut (impl KvWrite + ?Sized), key: &K) -> Result<()> {
        self.map.set(kv, key, &1)
    }

    /// Removes `key`.
    pub fn remove(&self, kv: &mut (impl KvWrite + ?Sized), key: &K) -> Result<()> {
        self.map.remove(kv, key)
    }

    /// All members. Callers bound what they take.
    pub fn iter<'a>(
        &'a self,
        kv: &'a (impl KvRead + ?Sized),
        walk: Walk<'_>,
    ) -> impl Iterator<Item = Result<K>> + 'a {
        self.map.iter(kv, walk).map(|entry| Ok(entry?.0))
    }

    /// The members that begin with `head`, a leading part of `K`.
    pub fn iter_from<'a>(
        &'a self,
        kv: &'a (impl KvRead + ?Sized),
        head: &impl Key,
        walk: Walk<'_>,
    ) -> impl Iterator<Item = Result<K>> + 'a {
        self.map.iter_from(kv, head, walk).map(|entry| Ok(entry?.0))
    }

    /// The members below `end`, smallest first: the front of a queue keyed by height or time.
    pub fn iter_below<'a>(
        &'a self,
        kv: &'a (impl KvRead + ?Sized),
        end: &impl Key,
    ) -> impl Iterator<Item = Result<K>> + 'a {
        self.map.iter_below(kv, end).map(|entry| Ok(entry?.0))
    }
}

/// A counter that hands out 1, 2, 3, ...
pub struct Sequence {
    item: Item<u64>,
}

impl Sequence {
    /// The sequence under `prefix` of `store`.
    pub const fn new(store: StoreName, prefix: u8) -> Self {
        Sequence { item: Item::new(store, prefix) }
    }

    /// The next number; each is given once.
    pub fn next(&self, kv: &mut (impl KvWrite + ?Sized)) -> Result<u64> {
        let next = self.current(kv)?.checked_add(1).ok_or_else(|| Error::fault("a sequence is used up"))?;
        self.item.set(kv, &next)?;
        Ok(next)
    }

    /// The last number given, 0 before the first.
    pub fn current(&self, kv: &(impl KvRead + ?Sized)) -> Result<u64> {
        Ok(self.item.get(kv)?.unwrap_or(0))
    }

    /// Sets the last number given (genesis).
    pub fn set(&self, kv: &mut (impl KvWrite + ?Sized), last: u64) -> Result<()> {
        self.item.set(kv, &last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Changes, Empty, Overlay};
    use proptest::prelude::*;

    const BEFORE: Map<u8, u8> = Map::new("s", 1);
    const PAIRS: Map<(u8, u8), u8> = Map::new("s", 2);
    const AFTER: Map<u8, u8> = Map::new("s", 3);

    proptest! {
        /// A page's key is what a client sends: whatever it is, only entries of the collection's part come back.
        #[test]
        fn no_key_leads_out_of_a_collection(after in proptest::collection::vec(0u8..5, 0..4), reverse: bool) {
            let mut state = Overlay::new(&Empty, Changes::new());
            for i in 0..4 {
                BEFORE.set(&mut state, &i, &i).unwrap();
                AFTER.set(&mut state, &i, &i).unwrap();
                for j in 0..4 {
                    PAIRS.set(&mut state, &(i, j), &j).unwrap();
                }
            }
            let walk = Walk { after: Some(&after), reverse };
            let got: Vec<_> = PAIRS.iter_from(&state, &2u8, walk).map(|e| e.unwrap().0).collect();
            let mut want: Vec<_> = (0..4).map(|j| (2, j)).filter(|pair| {
                let raw = PAIRS.raw_key(pair);
                if reverse { raw < after } else { raw > after }
            }).collect();
            if reverse {
                want.reverse();
            }
            prop_assert_eq!(got, want);
        }
    }
}
