//! Being on the chain: registration, the list of models, a heartbeat an epoch.

use anyhow::Context;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::deepnode::models::v1::ModelStatus;
use deepnode_proto::deepnode::workers::v1::{
    self as proto, MsgHeartbeat, MsgRegisterWorker, MsgServeModels, MsgUpdateWorker, WorkerStatus,
};
use deepnode_proto::{Any, AnyExt};

use super::Worker;
use crate::canon::Digest;
use crate::chain::{Head, Order};

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
