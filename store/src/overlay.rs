//! Changes on top of a state that stays as it is: what a block or a transaction wrote so far.

use std::collections::{btree_map, BTreeMap};
use std::iter::Peekable;
use std::ops::Bound;

use crate::kv::{Entries, Entry, KvRead, KvWrite, Range, StoreName};
use crate::tree::{check_key, check_value};
use crate::Result;

/// Written keys of one store; `None` is a removal.
pub type StoreChanges = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Written keys of all stores.
pub type Changes = BTreeMap<StoreName, StoreChanges>;

/// A stack of changes over a parent state. The lowest layer is always there; `push` opens one that can be dropped.
pub struct Overlay<'p> {
    parent: &'p dyn KvRead,
    layers: Vec<Changes>,
}

impl<'p> Overlay<'p> {
    /// `changes` on top of `parent`.
    pub fn new(parent: &'p dyn KvRead, changes: Changes) -> Self {
        Overlay { parent, layers: vec![changes] }
    }

    /// Opens a layer.
    pub fn push(&mut self) {
        self.layers.push(Changes::new());
    }

    /// Closes the upper layer, keeping or dropping its changes. The lowest layer stays.
    pub fn pop(&mut self, keep: bool) {
        if self.layers.len() < 2 {
            return;
        }
        let Some(top) = self.layers.pop() else { return };
        if let (true, Some(below)) = (keep, self.layers.last_mut()) {
            for (store, changes) in top {
                below.entry(store).or_default().extend(changes);
            }
        }
    }

    /// All changes, layers above the lowest dropped.
    pub fn into_changes(mut self) -> Changes {
        self.layers.swap_remove(0)
    }
}

impl KvRead for Overlay<'_> {
    fn get(&self, store: StoreName, key: &[u8]) -> Result<Option<Vec<u8>>> {
        for layer in self.layers.iter().rev() {
            if let Some(value) = layer.get(store).and_then(|changes| changes.get(key)) {
                return Ok(value.clone());
            }
        }
        self.parent.get(store, key)
    }

    fn scan<'a>(&'a self, store: StoreName, range: Range) -> Entries<'a> {
        let mut entries = self.parent.scan(store, range.clone());
        for changes in self.layers.iter().filter_map(|layer| layer.get(store)) {
            if !changes.is_empty() {
                entries = Box::new(Merged::new(entries, changes, &range));
            }
        }
        entries
    }
}

impl KvWrite for Overlay<'_> {
    /// An entry that no proof could hold is refused here, where it fails one message, and not in the block's commit.
    fn set(&mut self, store: StoreName, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        check_key(&key)?;
        check_value(&value)?;
        if let Some(layer) = self.layers.last_mut() {
            layer.entry(store).or_default().insert(key, Some(value));
        }
        Ok(())
    }

    fn remove(&mut self, store: StoreName, key: &[u8]) -> Result<()> {
        if let Some(layer) = self.layers.last_mut() {
            layer.entry(store).or_default().insert(key.to_vec(), None);
        }
        Ok(())
    }
}

/// Entries from below with one layer's changes merged in.
struct Merged<'a> {
    below: Peekable<Entries<'a>>,
    changes: btree_map::Range<'a, Vec<u8>, Option<Vec<u8>>>,
    next: Option<(&'a Vec<u8>, &'a Option<Vec<u8>>)>,
    reverse: bool,
}

impl<'a> Merged<'a> {
    fn new(below: Entries<'a>, changes: &'a StoreChanges, range: &Range) -> Self {
        let empty = range.end.as_ref().is_some_and(|end| *end <= range.start);
        let bounds: (Bound<&Vec<u8>>, Bound<&Vec<u8>>) = match &range.end {
            _ if empty => (Bound::Included(&range.start), Bound::Excluded(&range.start)),
            Some(end) => (Bound::Included(&range.start), Bound::Excluded(end)),
            None => (Bound::Included(&range.start), Bound::Unbounded),
        };
        let mut merged = Merged {
            below: below.peekable(),
            changes: changes.range::<Vec<u8>, _>(bounds),
            next: None,
            reverse: range.reverse,
        };
        merged.advance();
        merged
    }

    fn advance(&mut self) {
        self.next = if self.reverse { self.changes.next_back() } else { self.changes.next() };
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((key, value)) = self.next else { return self.below.next() };
            match self.below.peek() {
                Some(Err(_)) => return self.below.next(),
                Some(Ok((other, _))) => {
                    let order = if self.reverse { other.cmp(key).reverse() } else { other.cmp(key) };
                    if order.is_lt() {
                        return self.below.next();
                    }
                    if order.is_eq() {
                        self.below.next();
                    }
                }
                None => {}
            }
            self.advance();
            if let Some(value) = value {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}

/// A state without any entry, to build genesis and tests on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Empty;

impl KvRead for Empty {
    fn get(&self, _: StoreName, _: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn scan<'a>(&'a self, _: StoreName, _: Range) -> Entries<'a> {
        Box::new(std::iter::empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: StoreName = "s";

    #[derive(Clone, Debug)]
    enum Op {
        Set(u8, u8),
        Remove(u8),
        Push,
        Pop(bool),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u8..12, any::<u8>()).prop_map(|(k, v)| Op::Set(k, v)),
            3 => (0u8..12).prop_map(Op::Remove),
            1 => Just(Op::Push),
            1 => any::<bool>().prop_map(Op::Pop),
        ]
    }

    proptest! {
        /// The overlay equals a stack of plain maps, for reads and for scans in both directions.
        #[test]
        fn equals_a_stack_of_maps(
            base in proptest::collection::btree_map(0u8..12, any::<u8>(), 0..8),
            ops in proptest::collection::vec(op(), 0..40), lo in 0u8..12, hi in 0u8..13, reverse: bool,
        ) {
            let mut parent = Overlay::new(&Empty, Changes::new());
            for (k, v) in &base {
                parent.set(S, vec![*k], vec![*v]).unwrap();
            }
            let mut overlay = Overlay::new(&parent, Changes::new());
            let mut model = vec![base];
            for op in ops {
                match op {
                    Op::Set(k, v) => {
                        overlay.set(S, vec![k], vec![v]).unwrap();
                        model.last_mut().unwrap().insert(k, v);
                    }
                    Op::Remove(k) => {
                        overlay.remove(S, &[k]).unwrap();
                        model.last_mut().unwrap().remove(&k);
                    }
                    Op::Push => {
                        overlay.push();
                        model.push(model.last().unwrap().clone());
                    }
                    Op::Pop(keep) => {
                        overlay.pop(keep);
                        if model.len() > 1 {
                            let top = model.pop().unwrap();
                            if keep {
                                *model.last_mut().unwrap() = top;
                            }
                        }
                    }
                }
            }
            let model = model.last().unwrap();
            for k in 0u8..12 {
                prop_assert_eq!(overlay.get(S, &[k]).unwrap(), model.get(&k).map(|v| vec![*v]));
            }
            let got: Vec<_> =
                overlay.scan(S, Range { start: vec![lo], end: Some(vec![hi]), reverse }).map(Result::unwrap).collect();
            let mut want: Vec<_> =
                model.iter().filter(|(k, _)| (lo..hi).contains(k)).map(|(k, v)| (vec![*k], vec![*v])).collect();
            if reverse {
                want.reverse();
            }
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn what_cannot_be_proved_cannot_be_set() {
        let mut overlay = Overlay::new(&Empty, Changes::new());
        for (key, value) in [(vec![], vec![1]), (vec![1; 128], vec![1]), (vec![1], vec![])] {
            let refused = overlay.set(S, key, value).unwrap_err();
            assert!(matches!(refused, crate::Error::Tx(e) if e.codespace == "sdk" && e.code == 18));
        }
        overlay.set(S, vec![1; 127], vec![1]).unwrap();
    }
}
