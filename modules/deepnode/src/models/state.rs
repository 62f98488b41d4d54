//! What models keeps, all of it in the store `models`.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{Address, Dec, Item, Map, Set};

use super::architecture::Architecture;

pub(super) const STORE: &str = "models";
/// A model's id: the root of its manifest.
pub type ModelId = [u8; 32];

pub(super) const PARAMS: Item<super::Params> = Item::new(STORE, 0x01);
/// Rows of the class table in their order, each with the price that it started with.
pub(super) const CLASSES: Item<Vec<Class>> = Item::new(STORE, 0x02);
/// Price by class name, as it stands.
pub(super) const PRICES: Map<String, Dec> = Map::new(STORE, 0x03);
/// Height by (owner, commitment).
pub(super) const COMMITMENTS: Map<(Address, [u8; 32]), u64> = Map::new(STORE, 0x11);
/// (height, owner, commitment), oldest first.
pub(super) const COMMITMENT_QUEUE: Set<(u64, Address, [u8; 32])> = Set::new(STORE, 0x12);
pub(super) const MODELS: Map<ModelId, Model> = Map::new(STORE, 0x21);
/// Apart from the model, which every settlement would rewrite.
pub(super) const USAGE: Map<ModelId, Usage> = Map::new(STORE, 0x22);
/// (name, id) of active models.
pub(super) const NAMES: Set<(String, ModelId)> = Set::new(STORE, 0x23);
/// Pending models whose test vector is not drawn, by the height at which they began to wait.
pub(super) const PENDING: Set<(u64, ModelId)> = Set::new(STORE, 0x24);

/// A row of the table that puts models into classes: the first row of a kind whose `max_weights` holds the model.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Class {
    /// Unique, such as "llm-300m".
    pub name: String,
    /// llm, embedding, speech, image, tabular or custom.
    pub kind: String,
    /// Greatest number of matmul weights in the layers; 0 is no bound.
    pub max_weights: u64,
    /// CU a block that a worker must reach.
    pub speed: u64,
    /// CU of the reference request.
    pub cu_ref: u64,
    /// udn a million CU at which credit is full.
    pub ref_price: Dec,
    /// udn a million CU that a task pays.
    pub price: Dec,
}

impl Class {
    /// What reputation in this class is filed under, such as "llm/llm-300m".
    pub fn capability(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }

    /// Whether a model of this kind and size belongs here.
    pub fn holds(&self, kind: &str, weights: u64) -> bool {
        self.kind == kind && (self.max_weights == 0 || weights <= self.max_weights)
    }
}

/// Where a model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Status {
    /// Waits for its test vector.
    Pending,
    Active,
    /// No auditors agreed on its test vector. It may be registered again.
    Rejected,
    /// Its owner asks for no new work.
    Deprecated,
    /// Governance allows no new work.
    Delisted,
}

/// What the chain knows of a model.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Model {
    pub owner: Address,
    pub name: String,
    pub licence: String,
    /// The kind of its class.
    pub kind: String,
    /// Name of its class.
    pub class: String,
    pub architecture: Architecture,
    /// Matmul weights in the layers.
    pub weights: u64,
    /// Millionths of the compute fee that a task pays on top.
    pub royalty_ppm: u32,
    /// The model that this one derives from.
    pub parent: Option<ModelId>,
    /// Millionths of the royalty that go to the parent's owner.
    pub parent_part_ppm: u32,
    /// Length of the chain of parents.
    pub depth: u32,
    pub status: Status,
    /// Whether receipts earn credit.
    pub scored: bool,
    pub registered_height: u64,
    /// Draws of its test vector that ended without agreement.
    pub failed_draws: u32,
    /// Trace root that the auditors of the test vector agreed on.
    pub vector_root: Option<[u8; 32]>,
    /// udn locked until the test vector is decided.
    pub deposit: u128,
}

impl Model {
    /// Whether tasks and sessions may ask for it.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }
}

/// Settled work of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Usage {
    pub tasks: u64,
    pub cu: u64,
}
