//! Before the first question: the model, the auditors and the workers.

use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use deepnode_client::Client;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::deepnode::audits::v1::MsgRegisterAuditor;
use deepnode_proto::deepnode::workers::v1::MsgApproveWorker;
use deepnode_proto::{Any, AnyExt};
use futures::future::try_join_all;
use serde_json::{json, Value};

use super::{options, CLASS, POLL};
use crate::chain;
use crate::network::{short, Network, Paths};
use crate::print::{line, step};

/// An imported model, and its entry of the genesis file.
pub struct Imported {
    pub id: [u8; 32],
    pub genesis: Value,
}

/// Imports the model once; later starts find it.
pub fn import(paths: &Paths) -> Result<Imported> {
    use deepnode_worker::model::{import, manifest::encode_architecture, Model};
    let told = std::sync::Mutex::new(Instant::now());
    let imported = import(&paths.gguf, &paths.models, &|progress| {
        let mut told = told.lock().expect("printing does not panic");
        if told.elapsed() > Duration::from_secs(1) {
            println!("   importing {} of {} MB", progress.done >> 20, progress.total >> 20);
            *told = Instant::now();
        }
    })?;
    let model = Model::open(&imported.path)?;
    line("model", model.name());
    line("model id", hex::encode(imported.id));
    let genesis = json!({
        "id": hex::encode(imported.id),
        "owner": deepnode_tx::Address::module("models").to_string(),
        "name": "SmolLM2-135M-Instruct",
        "licence": "Apache-2.0",
        "architecture": hex::encode(encode_architecture(model.arch())),
        "status": "MODEL_STATUS_ACTIVE",
        "scored": true,
    });
    Ok(Imported { id: imported.id, genesis })
}

/// Starts workers and auditors, and registers them.
pub async fn start(network: &mut Network, client: &Client) -> Result<()> {
    // They load the model and register while the auditors are registered.
    for worker in &mut network.workers {
        worker.process.start()?;
    }
    auditors(network, client).await?;
    workers(network, client).await
}

/// Registers each validator's auditor and starts its verifier.
async fn auditors(network: &mut Network, client: &Client) -> Result<()> {
    step("auditors");
    try_join_all(network.validators.iter().map(|validator| {
        let message = MsgRegisterAuditor {
            operator: validator.operator.address().to_string(),
            auditor: validator.auditor.address().to_string(),
            classes: vec![CLASS.into()],
            deposit: Some(Coin { denom: "udn".into(), amount: "100000000".into() }),
        };
        client.send(&validator.operator, vec![Any::pack(&message)], options())
    }))
    .await?;
    for validator in &mut network.validators {
        validator.verifier.start()?;
        line(&validator.name, format!("audits {CLASS} with {}", short(&validator.auditor.address())));
    }
    Ok(())
}

/// Waits until the workers are registered, and lets the validators consent to them.
async fn workers(network: &mut Network, client: &Client) -> Result<()> {
    step("workers");
    let begin = Instant::now();
    for index in 0..network.workers.len() {
        loop {
            network.check().await?;
            let worker = &network.workers[index];
            let found = chain::worker(client, &worker.key.address().to_string()).await;
            if found.is_ok_and(|w| !w.models.is_empty()) {
                break;
            }
            if begin.elapsed() > Duration::from_secs(60) {
                bail!("{} did not register; its log is {}", worker.name, worker.process.log.display());
            }
            tokio::time::sleep(POLL).await;
        }
    }
    try_join_all(network.validators.iter().enumerate().map(|(index, validator)| {
        let backers = network.workers.iter().filter(move |w| w.backs == index);
        let approvals: Vec<Any> = backers
            .map(|worker| {
                Any::pack(&MsgApproveWorker {
                    operator: validator.operator.address().to_string(),
                    worker: worker.key.address().to_string(),
                })
            })
            .collect();
        async move {
            match approvals.is_empty() {
                true => Ok(()),
                false => client.send(&validator.operator, approvals, options()).await.map(drop),
            }
        }
    }))
    .await?;
    for worker in &network.workers {
        let (address, backed) = (short(&worker.key.address()), &network.validators[worker.backs].name);
        line(&worker.name, format!("{address} serves at {}, backs {backed}", worker.endpoint));
    }
    Ok(())
}
