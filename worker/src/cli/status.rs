//! `status`

use deepnode_client::keyring::Passphrase;
use deepnode_client::{Client, ClientError};
use deepnode_proto::deepnode::powr::v1::query_client::QueryClient as Powr;
use deepnode_proto::deepnode::powr::v1::QueryWorkerScoreRequest;
use deepnode_proto::deepnode::reputation::v1::query_client::QueryClient as Reputation;
use deepnode_proto::deepnode::reputation::v1::QueryRecordsRequest;
use deepnode_proto::deepnode::workers::v1::query_client::QueryClient as Workers;
use deepnode_proto::deepnode::workers::v1::QueryWorkerRequest;
use serde_json::{json, Value};
use tonic::Code;

use super::{block_on, Global, Home};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    json: bool,
    /// Shows it live, until q is pressed.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 2, requires = "watch", value_parser = clap::value_parser!(u16).range(1..))]
    interval: u16,
}

pub(super) fn run(global: &Global, args: Args) -> anyhow::Result<()> {
    let home = global.open()?;
    if args.watch {
        return super::watch::run(&home, std::time::Duration::from_secs(args.interval.into()));
    }
    let status = block_on(status(&home))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    for (part, fields) in status.as_object().into_iter().flatten() {
        match fields {
            Value::Object(fields) => {
                println!("{part}");
                for (name, value) in fields {
                    println!("  {name:<20} {}", plain(value));
                }
            }
            other => println!("{part:<22} {}", plain(other)),
        }
    }
    Ok(())
}

/// A value as people read it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The process of a home folder, and what the chain says of its worker.
pub async fn status(home: &Home) -> anyhow::Result<Value> {
    // The address is public: no passphrase is needed.
    let address = home.keyring(Passphrase::Prompt)?.show(&home.config.key)?.address.to_string();
    let client = Client::connect(&home.config.node).await?.expect_chain(&home.config.chain_id)?;
    let channel = client.channel();

    let request = QueryWorkerRequest { address: address.clone() };
    let worker = found(Workers::new(channel.clone()).worker(request).await)?.and_then(|r| r.worker);
    let worker = worker.map(|w| {
        json!({
            "status": w.status().as_str_name().trim_start_matches("WORKER_STATUS_").to_lowercase(),
            "bond_udn": w.bond,
            "leaving_udn": w.leaving,
            "validator": w.validator,
            "next_validator": w.next_validator,
            "endpoint": w.endpoint,
            "declared_cu_a_block": w.declared,
            "proven_cu_a_block": w.proven,
            "models": w.models.iter().map(hex::encode).collect::<Vec<_>>(),
            "last_seen_epoch": w.last_seen_epoch,
            "open_tasks": w.open_tasks,
            "pending_pay_udn": w.pending_pay,
        })
    });
    let request = QueryRecordsRequest { subject: address.clone(), pagination: None };
    let records = found(Reputation::new(channel.clone()).records(request).await)?;
    let reputation: serde_json::Map<String, Value> = records
        .map(|r| r.records)
        .unwrap_or_default()
        .into_iter()
        .map(|r| (r.capability, json!(r.reputation)))
        .collect();
    let request = QueryWorkerScoreRequest { worker: address.clone() };
    let score = found(Powr::new(channel).worker_score(request).await)?;
    Ok(json!({
        "address": address,
        "chain_id": home.config.chain_id,
        "local": local(home).await,
        "worker": worker.unwrap_or_else(|| json!("not registered")),
        "reputation": reputation,
        "score_micro_cu_epoch": score.map(|s| s.score),
    }))
}

/// What the process says that runs here.
async fn local(home: &Home) -> Value {
    let at = home.config.worker.listen;
    match deepnode_client::serving::status(&at.to_string()).await {
        Ok(s) => json!({
            "version": s.version,
            "models": s.models.iter().map(hex::encode).collect::<Vec<_>>(),
            "running": s.running,
            "queued": s.queued,
            "stopping": Some(s.stopping).filter(|reason| !reason.is_empty()),
        }),
        Err(error) => json!(error.to_string()),
    }
}

fn found<T>(result: Result<tonic::Response<T>, tonic::Status>) -> Result<Option<T>, ClientError> {
    match result {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => {
            Err(ClientError::Query { what: "status", code: status.code(), message: status.message().into() })
        }
    }
}
