//! What the worker and the auditor need of the chain.

mod blocks;
mod grpc;

pub use grpc::GrpcChain;

use deepnode_client::ClientError;
use deepnode_proto::deepnode::audits::v1::Audit;
use deepnode_proto::deepnode::models::v1::Model;
use deepnode_proto::deepnode::tasks::v1::Task;
use deepnode_proto::deepnode::workers::v1::Worker;
use deepnode_proto::{Any, AnyExt, Name};
use deepnode_tx::{Address, SigningKey};

use crate::canon::Digest;

pub type Result<T> = std::result::Result<T, ClientError>;

/// Where the chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub height: u64,
    pub epoch: u64,
}

/// The chain, as one key sees it: a node over gRPC, or what a test plays.
#[tonic::async_trait]
pub trait Chain: Send + Sync + 'static {
    fn chain_id(&self) -> &str;
    /// The key that signs what [`send`](Self::send) sends.
    fn signer(&self) -> &SigningKey;
    async fn head(&self) -> Result<Head>;
    /// Returns at the next block, if the chain tells of it; may wait for ever.
    async fn next_block(&self) {
        std::future::pending().await
    }
    async fn worker(&self, address: &Address) -> Result<Option<Worker>>;
    async fn model(&self, id: &Digest) -> Result<Option<Model>>;
    /// CU a block that a class of models asks for; 0 for a class that does not exist.
    async fn class_speed(&self, class: &str) -> Result<u64>;
    /// The open tasks of a worker.
    async fn tasks_of(&self, worker: &Address) -> Result<Vec<Task>>;
    async fn task(&self, id: u64) -> Result<Option<Task>>;
    /// The audits of a task, without blobs.
    async fn audits_of_task(&self, task: u64) -> Result<Vec<Audit>>;
    /// The open audits that an auditor's key was drawn for, without blobs.
    async fn audits_drawn(&self, auditor: &Address) -> Result<Vec<Audit>>;
    /// One audit, with the blobs that its worker showed.
    async fn audit(&self, id: u64) -> Result<Option<Audit>>;
    /// Blocks after finality for which blobs are to be kept.
    async fn retention(&self) -> Result<u64>;
    /// Signs and sends one message, and waits for its block. An error says whether the transaction may still be
    /// included ([`ClientError::may_be_included`]).
    async fn send(&self, message: Any, order: Order) -> Result<()>;
}

/// Whether a transaction counts in the account's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Sequence,
    Unordered,
}

impl dyn Chain {
    pub fn address(&self) -> Address {
        self.signer().address()
    }

    pub async fn tell<M: Name>(&self, message: &M) -> Result<()> {
        self.send(Any::pack(message), Order::Sequence).await
    }
}
