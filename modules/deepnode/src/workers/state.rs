//! What workers keeps, all of it in the store `workers`.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{Address, Item, Map, Set};

use crate::models::ModelId;

pub(super) const STORE: &str = "workers";

pub(super) const PARAMS: Item<super::Params> = Item::new(STORE, 0x01);
/// As last stored; [`super::get`] brings them up to date.
pub(super) const WORKERS: Map<Address, Worker> = Map::new(STORE, 0x11);
/// Apart from the worker, which every receipt rewrites.
pub(super) const PROFILES: Map<Address, Profile> = Map::new(STORE, 0x12);
/// (model, worker) of active workers.
pub(super) const SERVING: Set<(ModelId, Address)> = Set::new(STORE, 0x21);
/// Totals of those.
pub(super) const SERVED: Map<ModelId, Served> = Map::new(STORE, 0x22);
/// (height, worker): bonds on their way out, to be looked at.
pub(super) const LEAVING: Set<(u64, Address)> = Set::new(STORE, 0x31);

/// Where a worker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Status {
    #[default]
    Active,
    /// Its bond is below the least.
    Inactive,
    /// It signed two receipts for one request; for ever.
    Barred,
}

/// A worker, by its account.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Worker {
    pub status: Status,
    /// udn that can be slashed and is not leaving.
    pub bond: u128,
    /// udn on its way out, still slashable.
    pub leaving: u128,
    /// When it is paid out, unless receipts are open then.
    pub leaving_height: u64,
    /// Operator of the validator in force: it gets this worker's score.
    pub validator: Option<Address>,
    /// The validator asked for and not yet in force.
    pub next: Option<Next>,
    /// Declared free capacity, CU a block.
    pub declared: u64,
    /// Proven capacity, CU a block, a decaying maximum as of `proven_epoch`.
    pub proven: u64,
    pub proven_epoch: u64,
    /// Epoch of the last heartbeat or receipt.
    pub last_seen: u64,
    /// Epoch of the last heartbeat.
    pub heartbeat: u64,
    /// Tasks accepted and sessions whose receipts are not final.
    pub open_tasks: u64,
    /// udn earned and not final.
    pub pending_pay: u128,
    pub registered_height: u64,
}

/// A validator that a worker asked to back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Next {
    pub validator: Address,
    /// The epoch at whose end it comes into force; none until it consents. A validator in force before leaves one
    /// epoch earlier.
    pub epoch: Option<u64>,
}

/// What a worker says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Profile {
    /// URL of its `deepnode.serving.v1.Serving`.
    pub endpoint: String,
    pub hardware: String,
    /// Models that it serves, ascending.
    pub models: Vec<ModelId>,
}

/// Active workers of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Served {
    pub workers: u32,
    /// Sum of their bonds, udn.
    pub bond: u128,
}

impl Worker {
    /// Whether it may be drawn, apart from when it was last seen.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// Brings what changes by the epoch to `epoch`: the backed validator. A move leaves an epoch before it joins.
    pub(super) fn backing_at(&mut self, epoch: u64) {
        let Some(Next { validator, epoch: Some(joins) }) = self.next else { return };
        if epoch > joins {
            self.validator = Some(validator);
            self.next = None;
        } else if epoch == joins && self.validator.is_some() {
            self.validator = None;
        }
    }
}
