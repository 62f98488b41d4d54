//! What powr keeps, all of it in the store `powr`.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{Address, Dec, Item, Map};

use super::params::Params;

pub(super) const STORE: &str = "powr";

pub(super) const PARAMS: Item<Params> = Item::new(STORE, 0x01);
/// Part of power that follows stake.
pub(super) const RHO: Item<Dec> = Item::new(STORE, 0x02);
/// Stake that collateral was last measured against, udn.
pub(super) const STAKE_BASE: Item<u128> = Item::new(STORE, 0x03);
/// Blocks signed and due in this epoch, by operator. One value: every block rewrites it.
pub(super) const SIGNING: Item<BTreeMap<Address, Signing>> = Item::new(STORE, 0x04);
/// Number of the epoch that the terms are of.
pub(super) const TERMS_EPOCH: Item<u64> = Item::new(STORE, 0x05);

/// S_i by worker.
pub(super) const SCORES: Map<Address, Score> = Map::new(STORE, 0x11);
/// By operator.
pub(super) const STANDINGS: Map<Address, Standing> = Map::new(STORE, 0x12);
/// Terms of the last epoch's end by operator.
pub(super) const TERMS: Map<Address, Terms> = Map::new(STORE, 0x13);
/// What CometBFT was last told, by consensus key (ed25519).
pub(super) const SENT: Map<[u8; 32], u64> = Map::new(STORE, 0x14);

/// Blocks of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Signing {
    pub signed: u64,
    pub due: u64,
}

/// A worker's S_i, and the validator whose W_v holds it too.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Score {
    /// Micro-CU an epoch, as of `epoch`.
    pub value: u128,
    pub epoch: u64,
    pub validator: Option<Address>,
}

/// What a validator's score is made of.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Standing {
    /// W_v and A_v, micro-CU an epoch, as of `epoch`.
    pub work: u128,
    pub audit_work: u128,
    pub epoch: u64,
    /// u_v: average part of the blocks that it signed.
    pub signing: Dec,
}

impl Default for Standing {
    fn default() -> Self {
        Standing { work: 0, audit_work: 0, epoch: 0, signing: Dec::ONE }
    }
}

/// Why a validator has its power: everything that went into it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Terms {
    pub epoch: u64,
    /// udn bonded.
    pub stake: u128,
    /// W, A, R and S = R (W + A).
    pub work: u128,
    pub audit_work: u128,
    pub reputation: Dec,
    pub score: u128,
    /// Share before bounds, 18 decimals.
    pub q: u128,
    pub collateral: u64,
    pub cap: u64,
    pub old: u64,
    pub low: u64,
    pub high: u64,
    pub power: u64,
    pub signing: Signing,
    pub rho: Dec,
}
