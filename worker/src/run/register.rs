//! Being on the chain: registration, the list of models, a heartbeat an epoch.

use std::time::Duration;

use anyhow::Context;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::deepnode::models::v1::ModelStatus;
use deepnode_proto::deepnode::workers::v1::{
    self as proto, MsgHeartbeat, MsgRegisterWorker, MsgServeModels, MsgUpdateWorker, WorkerStatus,
};
use deepnode_proto::{Any, AnyExt};

use super::Worker;
use crate::canon::Digest;
use crate::chain::{Chain, Head, Order};

/// How long whoever listens at the registered endpoint may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the worker says of itself on the chain.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// udn that are bonded when the worker registers.
    pub bond: u128,
    /// Operator address of the validator to back.
    pub validator: String,
    /// Where others reach the service, http://host:port.
    pub endpoint: String,
    pub hardware: String,
    /// Free capacity, CU a block; 0 stands for the speed that the class of its largest model asks for.
    pub declared: u64,
}

/// An error where another process works with this key already: under the endpoint that the chain has of this worker
/// somebody answers as this worker. To be asked before this process serves. An endpoint at which nobody answers stands in
/// nobody's way: the machine may be gone.
pub async fn check_alone(chain: &dyn Chain) -> anyhow::Result<()> {
    let address = chain.address();
    let Some(record) = chain.worker(&address).await.context("asking for the registration")? else {
        return Ok(());
    };
    let endpoint = &record.endpoint;
    let asked = tokio::time::timeout(PATIENCE, deepnode_client::serving::status(endpoint)).await;
    let Ok(Ok(status)) = asked else { return Ok(()) };
    anyhow::ensure!(
        (status.worker.as_str(), status.chain_id.as_str()) != (&address.to_string(), chain.chain_id()),
        "worker {address} runs already, at {endpoint}: stop that process first, or take another key here \
         (deepnode-worker init in another home); two receipts for one task bar a worker for ever"
    );
    Ok(())
}

impl Worker {
    /// Makes the chain's record of this worker what the configuration says.
    pub(super) async fn keep_registered(&self, head: Head) -> anyhow::Result<()> {
        let (active, declared) = self.active_models().await?;
        let worker = self.address().to_string();
        let Some(record) = self.chain.worker(&self.address()).await? else {
            return self.register(declared).await;
        };
        if record.status() == WorkerStatus::Barred {
            anyhow::bail!("{worker} is barred for ever: it signed two receipts for one task");
        }
        let mine = &self.registration;
        if (&record.endpoint, &record.hardware, record.declared) != (&mine.endpoint, &mine.hardware, declared)
        {
            tracing::info!(endpoint = mine.endpoint, declared, "updating the registration");
            let message = MsgUpdateWorker {
                worker: worker.clone(),
                endpoint: mine.endpoint.clone(),
                hardware: mine.hardware.clone(),
                declared,
            };
            self.chain.tell(&message).await.context("updating the registration")?;
        }
        if models_of(&record) != active {
            tracing::info!(models = active.len(), "telling which models are served");
            let model_ids = active.iter().map(|id| id.to_vec()).collect();
            self.chain
                .tell(&MsgServeModels { worker: worker.clone(), model_ids })
                .await
                .context("telling which models are served")?;
        }
        if record.last_seen_epoch < head.epoch {
            let message = Any::pack(&MsgHeartbeat { worker });
            self.chain.send(message, Order::Unordered).await.context("heartbeat")?;
        }
        Ok(())
    }

    async fn register(&self, declared: u64) -> anyhow::Result<()> {
        let mine = &self.registration;
        tracing::info!(bond = mine.bond, validator = mine.validator, "registering");
        let message = MsgRegisterWorker {
            worker: self.address().to_string(),
            bond: Some(Coin { denom: "udn".into(), amount: mine.bond.to_string() }),
            validator: mine.validator.clone(),
            endpoint: mine.endpoint.clone(),
            hardware: mine.hardware.clone(),
            declared,
        };
        self.chain.tell(&message).await.context("registering the worker")
    }

    /// The loaded models that take tasks, and the capacity to declare.
    async fn active_models(&self) -> anyhow::Result<(Vec<Digest>, u64)> {
        let (mut active, mut speed) = (Vec::new(), 0);
        for id in self.models() {
            if let Some(model) = self.chain.model(&id).await? {
                speed = speed.max(self.chain.class_speed(&model.class).await?);
                if model.status() == ModelStatus::Active {
                    active.push(id);
                }
            }
        }
        // The chain takes no 0, and there is nothing to go by before the first model is registered.
        let declared =
            if self.registration.declared == 0 { speed.max(1) } else { self.registration.declared };
        Ok((active, declared))
    }
}

/// The models of a record, in order.
fn models_of(record: &proto::Worker) -> Vec<Digest> {
    let mut models: Vec<Digest> = record.models.iter().filter_map(|id| crate::request::digest(id)).collect();
    models.sort_unstable();
    models
}
