//! How the database's own rows are encoded.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};

use super::IndexChanges;
use crate::backend::Table;
use crate::overlay::{Changes, StoreChanges};
use crate::tree::Hash;
use crate::StoreName;

/// Version of the layout on disk.
pub(super) const FORMAT: u32 = 1;

/// Keys of the table META.
pub(super) const FORMAT_KEY: &[u8] = b"format";
pub(super) const TIP_KEY: &[u8] = b"tip";
/// Present while a state sync fills the database.
pub(super) const IMPORT_KEY: &[u8] = b"import";

/// The committed height and its app hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Tip {
    pub(super) height: u64,
    pub(super) app_hash: Hash,
}

/// What takes a block back: where the chain stood before it, and the old values of everything that it changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Undo {
    pub(super) before: Tip,
    pub(super) state: Changes,
    pub(super) index: IndexChanges,
}

type Rows = Vec<(u8, Vec<u8>, Option<Vec<u8>>)>;

impl Undo {
    pub(super) fn encode(&self) -> Vec<u8> {
        let index: Rows =
            self.index.iter().map(|((t, key), value)| (t.0, key.clone(), value.clone())).collect();
        borsh::to_vec(&(self.before, &self.state, index)).expect("a Vec takes every byte")
    }

    /// `Err` names what is wrong.
    pub(super) fn decode(bytes: &[u8], stores: &[StoreName]) -> Result<Self, String> {
        type Encoded = (Tip, BTreeMap<String, StoreChanges>, Rows);
        let (before, state, index) = Encoded::try_from_slice(bytes).map_err(|e| e.to_string())?;
        let state = state
            .into_iter()
            .map(|(name, changes)| match stores.iter().find(|store| **store == name) {
                Some(store) => Ok((*store, changes)),
                None => Err(format!("store {name:?} is unknown to this binary")),
            })
            .collect::<Result<_, _>>()?;
        let index = index.into_iter().map(|(table, key, value)| ((Table(table), key), value)).collect();
        Ok(Undo { before, state, index })
    }
}
