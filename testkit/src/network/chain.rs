//! The chain as one key sees it: what workers and auditors run on.

use deepnode_proto::cosmos::base::query::v1beta1::PageRequest;
use deepnode_proto::deepnode::audits::v1 as audits;
use deepnode_proto::deepnode::beacon::v1 as beacon;
use deepnode_proto::deepnode::models::v1 as models;
use deepnode_proto::deepnode::tasks::v1 as tasks;
use deepnode_proto::deepnode::workers::v1 as workers;
use deepnode_proto::Any;
use deepnode_tx::{Address, SigningKey};
use deepnode_worker::canon::Digest;
use deepnode_worker::chain::{Chain, Head, Order, Result};

use super::{Network, CHAIN_ID};

/// A key on a network.
#[derive(Clone)]
pub struct Account {
    network: Network,
    key: SigningKey,
}

impl Account {
    pub(super) fn new(network: Network, key: SigningKey) -> Self {
        Self { network, key }
    }
}

/// As a worker asks a node: the newest first.
fn page() -> Option<PageRequest> {
    Some(PageRequest { limit: 200, reverse: true, ..Default::default() })
}

#[tonic::async_trait]
impl Chain for Account {
    fn chain_id(&self) -> &str {
        CHAIN_ID
    }

    fn signer(&self) -> &SigningKey {
        &self.key
    }

    async fn head(&self) -> Result<Head> {
        let value: beacon::QueryValueResponse =
            self.network.ask("beacon", 0, &beacon::QueryValueRequest { height: 0 })?;
        let epoch: beacon::QueryEpochResponse =
            self.network.ask("epoch", 0, &beacon::QueryEpochRequest {})?;
        Ok(Head { height: value.height, epoch: epoch.epoch.unwrap_or_default().number })
    }

    async fn worker(&self, address: &Address) -> Result<Option<workers::Worker>> {
        let request = workers::QueryWorkerRequest { address: address.to_string() };
        let found: Option<workers::QueryWorkerResponse> = self.network.find("worker", 0, &request)?;
        Ok(found.and_then(|r| r.worker))
    }

    async fn model(&self, id: &Digest) -> Result<Option<models::Model>> {
        let request = models::QueryModelRequest { id: hex::encode(id) };
        let found: Option<models::QueryModelResponse> = self.network.find("model", 0, &request)?;
        Ok(found.and_then(|r| r.model))
    }

    async fn class_speed(&self, class: &str) -> Result<u64> {
        let found: models::QueryClassesResponse =
            self.network.ask("classes", 0, &models::QueryClassesRequest {})?;
        Ok(found.classes.iter().find(|c| c.name == class).map_or(0, |c| c.speed))
    }

    async fn tasks_of(&self, worker: &Address) -> Result<Vec<tasks::Task>> {
        let request =
            tasks::QueryTasksRequest { worker: worker.to_string(), pagination: page(), ..Default::default() };
        let found: tasks::QueryTasksResponse = self.network.ask("tasks", 0, &request)?;
        Ok(found.tasks)
    }

    async fn task(&self, id: u64) -> Result<Option<tasks::Task>> {
        let found: Option<tasks::QueryTaskResponse> =
            self.network.find("task", 0, &tasks::QueryTaskRequest { id })?;
        Ok(found.and_then(|r| r.task))
    }

    async fn audits_of_task(&self, task_id: u64) -> Result<Vec<audits::Audit>> {
        let request = audits::QueryAuditsRequest { task_id, ..Default::default() };
        let found: Option<audits::QueryAuditsResponse> = self.network.find("audits", 0, &request)?;
        Ok(found.map(|r| r.audits).unwrap_or_default())
    }

    async fn audits_drawn(&self, auditor: &Address) -> Result<Vec<audits::Audit>> {
        let request = audits::QueryAuditsRequest {
            auditor: auditor.to_string(),
            pagination: page(),
            ..Default::default()
        };
        let found: audits::QueryAuditsResponse = self.network.ask("audits", 0, &request)?;
        Ok(found.audits)
    }

    async fn audit(&self, id: u64) -> Result<Option<audits::Audit>> {
        let found: Option<audits::QueryAuditResponse> =
            self.network.find("audit", 0, &audits::QueryAuditRequest { id })?;
        Ok(found.and_then(|r| r.audit))
    }

    async fn retention(&self) -> Result<u64> {
        let found: audits::QueryParamsResponse =
            self.network.ask("parameters of audits", 0, &audits::QueryParamsRequest {})?;
        Ok(found.params.unwrap_or_default().retention_blocks)
    }

    async fn send(&self, message: Any, order: Order) -> Result<()> {
        self.network.send(&self.key, vec![message], order).await.map(|_| ())
    }
}
