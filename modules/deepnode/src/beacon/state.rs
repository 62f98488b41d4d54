//! What the beacon keeps, all of it in the store `beacon`.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{Item, Map, Time};

use crate::params::EpochParams;

pub(super) const STORE: &str = "beacon";

pub(super) const PARAMS: Item<EpochParams> = Item::new(STORE, 0x01);
/// By height.
pub(super) const VALUES: Map<u64, [u8; 32]> = Map::new(STORE, 0x11);
/// What the next value is chained to: the last one, or genesis' seed.
pub(super) const LAST: Item<[u8; 32]> = Item::new(STORE, 0x12);
pub(super) const CLOCK: Item<Clock> = Item::new(STORE, 0x21);

/// The epoch that a block belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Epoch {
    /// 1 from the first block on; 0 is genesis.
    pub number: u64,
    /// Its first block.
    pub start_height: u64,
    /// Time of that block.
    pub start_time: Time,
}

/// The epoch clock as the last block's begin set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(super) struct Clock {
    pub epoch: Epoch,
    /// Whether the block is its epoch's last.
    pub ends: bool,
}
