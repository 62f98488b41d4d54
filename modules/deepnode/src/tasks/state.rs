//! What tasks keeps, all of it in the store `tasks`.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{Address, Ctx, Dec, Error, Item, KvRead, Map, Result, Sequence, Set};
use deepnode_proto::deepnode::tasks::v1 as proto;
use prost::Message;

use super::params::Params;
use crate::params::AuditParams;

/// Name of the store, and of the module account that holds all escrow.
pub(super) const STORE: &str = "tasks";

pub(super) const PARAMS: Item<Params> = Item::new(STORE, 0x01);
/// Pushed here by audits, whose parameters they are.
pub(super) const AUDIT_PARAMS: Item<AuditParams> = Item::new(STORE, 0x02);
pub(super) const LAST_ID: Sequence = Sequence::new(STORE, 0x03);

pub(super) const TASKS: Map<u64, Task> = Map::new(STORE, 0x11);
/// (creator, task).
pub(super) const BY_CREATOR: Set<(Address, u64)> = Set::new(STORE, 0x12);
/// (worker, task) of the tasks that a worker has now: assigned, accepted or submitted.
pub(super) const BY_WORKER: Set<(Address, u64)> = Set::new(STORE, 0x13);
/// (height, task): in that block's end the chain takes the task's next step ([`Task::due`]).
pub(super) const DUE: Set<(u64, u64)> = Set::new(STORE, 0x14);
/// (height, task): receipts about which the beacon of that height decides whether they are audited.
pub(super) const RECEIPTS_DUE: Set<(u64, u64)> = Set::new(STORE, 0x15);

/// Blocks from a commitment (submission, acceptance, receipt) to the beacon that nobody knew when it was made.
pub const BEACON_DELAY: u64 = 2;

/// Where a task stands. The first four are open: their escrow is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Status {
    Open,
    Assigned,
    Accepted,
    Submitted,
    Settled,
    Refunded,
    Cancelled,
    Convicted,
    Void,
}

impl Status {
    /// Whether the escrow is still locked.
    pub fn is_open(self) -> bool {
        matches!(self, Status::Open | Status::Assigned | Status::Accepted | Status::Submitted)
    }
}

/// A request with its escrow.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Task {
    pub id: u64,
    pub creator: Address,
    /// Canonical protobuf of the request.
    pub request: Vec<u8>,
    /// Its BLAKE3.
    pub request_digest: [u8; 32],
    pub model: [u8; 32],
    /// Name of the model's class.
    pub class: String,
    /// Greatest number of input tokens.
    pub input_tokens: u32,
    pub max_output: u32,
    /// Empty if the input is handed to the worker.
    pub inline_input: Vec<u8>,
    /// udn locked; 0 once closed.
    pub escrow: u128,
    /// udn for 10^6 CU, and the model's royalty as a part of the compute fee, when submitted.
    pub unit_price: Dec,
    pub royalty: Dec,
    pub submitted_height: u64,
    /// Blocks from acceptance to the receipt.
    pub deadline: u64,
    pub status: Status,
    pub worker: Option<Address>,
    pub earlier: Vec<Earlier>,
    /// Whose beacon assigns the task.
    pub draw_height: u64,
    /// Draws that found nobody.
    pub empty_draws: u32,
    /// Workers in the draw in force, and validators that these back.
    pub workers_in_draw: u32,
    pub validators_in_draw: u32,
    pub assigned_height: u64,
    pub accepted_height: u64,
    /// Last block for the receipt.
    pub deadline_height: u64,
    pub receipt_height: u64,
    /// Seed of the sampler; none while it is not fixed, and at temperature 0.
    pub seed: Option<[u8; 32]>,
    pub receipt: Option<Receipt>,
    pub cu: u64,
    /// Whether the beacon has been asked for an audit of the receipt; the chance of one, and its answer.
    pub decided: bool,
    pub audit_chance: Dec,
    pub drawn: bool,
    pub settlement: Option<Settlement>,
    /// Its place in the queue of next steps; 0 for none.
    pub due: u64,
}

/// A worker that had the task before.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Earlier {
    pub worker: Address,
    /// It let the time to accept pass: its fault if another accepts, who shows that the input could be had.
    pub silent: bool,
}

/// Why an output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Finish {
    Eos,
    Length,
    Stop,
    /// A number left its range: canonical, and paid so far.
    Numeric,
}

/// What a worker says that it computed.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Receipt {
    /// BLAKE3 of the token ids.
    pub input_digest: [u8; 32],
    pub input_tokens: u32,
    pub result_digest: [u8; 32],
    pub output_tokens: u32,
    pub finish: Finish,
    pub trace_root: [u8; 32],
    /// BLAKE3 of the receipt's canonical protobuf.
    pub digest: [u8; 32],
}

/// Where a price went, udn; the parts sum to the price.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Settlement {
    pub price: u128,
    pub worker: u128,
    pub owner: u128,
    pub parent: u128,
    pub burned: u128,
    pub community: u128,
    pub levy: u128,
    /// Escrow that returned to the user.
    pub returned: u128,
}

impl Task {
    /// The request.
    pub fn request(&self) -> Result<proto::Request> {
        proto::Request::decode(self.request.as_slice()).map_err(Error::fault)
    }

    /// Whether the sampler needs a seed that is not there yet.
    pub(super) fn needs_seed(&self) -> Result<bool> {
        Ok(self.seed.is_none() && self.request()?.sampling.is_some_and(|s| s.temperature > 0))
    }

    /// The worker in charge; a fault if the task has none.
    pub(super) fn assignee(&self) -> Result<Address> {
        self.worker.ok_or_else(|| Error::fault(format!("task {} has no worker", self.id)))
    }

    /// Moves its next step to the end of block `height`; 0 for none.
    pub(super) fn schedule(&mut self, cx: &mut Ctx<'_>, height: u64) -> Result<()> {
        if self.due > 0 {
            DUE.remove(cx, &(self.due, self.id))?;
        }
        if height > 0 {
            DUE.insert(cx, &(height, self.id))?;
        }
        self.due = height;
        Ok(())
    }

    /// Writes it.
    pub(super) fn save(&self, cx: &mut Ctx<'_>) -> Result<()> {
        TASKS.set(cx, &self.id, self)
    }
}

/// The task `id`; a fault if there is none.
pub(super) fn known(kv: &(impl KvRead + ?Sized), id: u64) -> Result<Task> {
    TASKS.get(kv, &id)?.ok_or_else(|| Error::fault(format!("tasks: no task {id}")))
}
