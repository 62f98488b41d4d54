//! A node over gRPC.

use std::time::Duration;

use deepnode_client::{Client, ClientError, GasPrice, Options};
use deepnode_proto::cosmos::base::query::v1beta1::PageRequest;
use deepnode_proto::deepnode::audits::v1::query_client::QueryClient as Audits;
use deepnode_proto::deepnode::audits::v1::{self as audits, Audit};
use deepnode_proto::deepnode::beacon::v1::query_client::QueryClient as Beacon;
use deepnode_proto::deepnode::beacon::v1::{QueryEpochRequest, QueryValueRequest};
use deepnode_proto::deepnode::models::v1::query_client::QueryClient as Models;
use deepnode_proto::deepnode::models::v1::{Model, QueryClassesRequest, QueryModelRequest};
use deepnode_proto::deepnode::tasks::v1::query_client::QueryClient as Tasks;
use deepnode_proto::deepnode::tasks::v1::{QueryTaskRequest, QueryTasksRequest, Task};
use deepnode_proto::deepnode::workers::v1::query_client::QueryClient as Workers;
use deepnode_proto::deepnode::workers::v1::{QueryWorkerRequest, Worker};
use deepnode_proto::Any;
use deepnode_tx::{Address, SigningKey};
use tokio::sync::watch;
use tonic::{Code, Response, Status};

use super::{blocks, Chain, Head, Order, Result};
use crate::canon::Digest;

/// Most open tasks or audits that are asked for at once, the newest: older ones are under way, or wait for the chain.
const PAGE: u64 = 200;
/// How long to wait for a transaction's block.
const WAIT: Duration = Duration::from_secs(20);
/// How long an unordered transaction is good.
const LIFETIME: Duration = Duration::from_secs(60);

/// A node, and the key that signs.
#[derive(Clone, Debug)]
pub struct GrpcChain {
    client: Client,
    signer: SigningKey,
    gas_price: Option<GasPrice>,
    /// Told by CometBFT, if it is asked.
    blocks: Option<watch::Receiver<u64>>,
}

impl GrpcChain {
    /// `comet` is the RPC of a CometBFT, such as `http://127.0.0.1:26657`, that tells of new blocks.
    pub fn new(
        client: Client,
        signer: SigningKey,
        gas_price: Option<GasPrice>,
        comet: Option<String>,
    ) -> Self {
        let blocks = comet.map(|rpc| blocks::follow(rpc, blocks::RETRY));
        Self { client, signer, gas_price, blocks }
    }
}

fn answer<T>(what: &'static str, result: std::result::Result<Response<T>, Status>) -> Result<T> {
    result.map(Response::into_inner).map_err(|status| ClientError::Query {
        what,
        code: status.code(),
        message: status.message().into(),
    })
}

/// As [`answer`], where "not found" is one.
fn found<T>(what: &'static str, result: std::result::Result<Response<T>, Status>) -> Result<Option<T>> {
    match result {
        Err(status) if status.code() == Code::NotFound => Ok(None),
        other => answer(what, other).map(Some),
    }
}

fn page() -> Option<PageRequest> {
    Some(PageRequest { limit: PAGE, reverse: true, ..Default::default() })
}

#[tonic::async_trait]
impl Chain for GrpcChain {
    fn chain_id(&self) -> &str {
        self.client.chain_id()
    }

    fn signer(&self) -> &SigningKey {
        &self.signer
    }

    async fn head(&self) -> Result<Head> {
        let mut beacon = Beacon::new(self.client.channel());
        let value = answer("beacon", beacon.value(QueryValueRequest { height: 0 }).await)?;
        let epoch = answer("epoch", beacon.epoch(QueryEpochRequest {}).await)?.epoch.unwrap_or_default();
        Ok(Head { height: value.height, epoch: epoch.number })
    }

    async fn next_block(&self) {
        match self.blocks.clone() {
            Some(mut blocks) => {
                blocks.mark_unchanged();
                if blocks.changed().await.is_err() {
                    std::future::pending().await
                }
            }
            None => std::future::pending().await,
        }
    }

    async fn worker(&self, address: &Address) -> Result<Option<Worker>> {
        let request = QueryWorkerRequest { address: address.to_string() };
        let result = Workers::new(self.client.channel()).worker(request).await;
        Ok(found("worker", result)?.and_then(|r| r.worker))
    }

    async fn model(&self, id: &Digest) -> Result<Option<Model>> {
        let request = QueryModelRequest { id: hex::encode(id) };
        let result = Models::new(self.client.channel()).model(request).await;
        Ok(found("model", result)?.and_then(|r| r.model))
    }

    async fn class_speed(&self, class: &str) -> Result<u64> {
        let result = Models::new(self.client.channel()).classes(QueryClassesRequest {}).await;
        let classes = answer("classes", result)?.classes;
        Ok(classes.iter().find(|c| c.name == class).map_or(0, |c| c.speed))
    }

    async fn tasks_of(&self, worker: &Address) -> Result<Vec<Task>> {
        let request =
            QueryTasksRequest { worker: worker.to_string(), pagination: page(), ..Default::default() };
        Ok(answer("tasks", Tasks::new(self.client.channel()).tasks(request).await)?.tasks)
    }

    async fn task(&self, id: u64) -> Result<Option<Task>> {
        let result = Tasks::new(self.client.channel()).task(QueryTaskRequest { id }).await;
        Ok(found("task", result)?.and_then(|r| r.task))
    }

    async fn audits_of_task(&self, task_id: u64) -> Result<Vec<Audit>> {
        let request = audits::QueryAuditsRequest { task_id, ..Default::default() };
        let result = Audits::new(self.client.channel()).audits(request).await;
        Ok(found("audits", result)?.map(|r| r.audits).unwrap_or_default())
    }

    async fn audits_drawn(&self, auditor: &Address) -> Result<Vec<Audit>> {
        let request = audits::QueryAuditsRequest {
            auditor: auditor.to_string(),
            pagination: page(),
            ..Default::default()
        };
        Ok(answer("audits", Audits::new(self.client.channel()).audits(request).await)?.audits)
    }

    async fn audit(&self, id: u64) -> Result<Option<Audit>> {
        let result = Audits::new(self.client.channel()).audit(audits::QueryAuditRequest { id }).await;
        Ok(found("audit", result)?.and_then(|r| r.audit))
    }

    async fn retention(&self) -> Result<u64> {
        let result = Audits::new(self.client.channel()).params(audits::QueryParamsRequest {}).await;
        Ok(answer("parameters of audits", result)?.params.unwrap_or_default().retention_blocks)
    }

    async fn send(&self, message: Any, order: Order) -> Result<()> {
        let options = Options {
            gas_price: self.gas_price.clone(),
            unordered: (order == Order::Unordered).then_some(LIFETIME),
            wait: Some(WAIT),
            ..Default::default()
        };
        self.client.send(&self.signer, vec![message], options).await.map(|_| ())
    }
}
