//! The node, and what the chain says of this worker and its models.

use std::time::Duration;

use deepnode_client::keyring::Passphrase;
use deepnode_client::{Client, ClientError};
use deepnode_proto::cosmos::bank::v1beta1::query_client::QueryClient as Bank;
use deepnode_proto::cosmos::bank::v1beta1::QueryBalanceRequest;
use deepnode_proto::deepnode::beacon::v1::query_client::QueryClient as Beacon;
use deepnode_proto::deepnode::beacon::v1::QueryValueRequest;
use deepnode_proto::deepnode::models::v1::ModelStatus;
use deepnode_proto::deepnode::workers::v1::query_client::QueryClient as Workers;
use deepnode_proto::deepnode::workers::v1::{QueryWorkerRequest, WorkerStatus};
use deepnode_tx::Address;
use tonic::Code;

use super::{Check, Home};

/// How long a chain may take for its next block.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);
/// udn besides the bond that transactions need for a while.
const FEES: u128 = 1_000_000;

pub async fn examine(home: &Home) -> Vec<Check> {
    let (node, chain_id) = (&home.config.node, &home.config.chain_id);
    let client = match Client::connect(node).await.and_then(|client| client.expect_chain(chain_id)) {
        Ok(client) => client,
        Err(error) => {
            let remedy = "start the node, or correct node and chain_id in worker.toml";
            return vec![Check::mend("node", error.to_string(), remedy)];
        }
    };
    let mut checks = vec![blocks(&client).await];
    checks.extend(comet(&home.config.comet).await);
    let key =
        home.keyring(Passphrase::Prompt).and_then(|keyring| Ok(keyring.show(&home.config.key)?.address));
    match account(&client, home, key.ok()).await {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(Check::mend("account", error.to_string(), "see the node's log")),
    }
    for id in home.models().unwrap_or_default() {
        checks.push(model(&client, &hex::encode(id)).await);
    }
    checks
}

/// Whether the chain moves.
async fn blocks(client: &Client) -> Check {
    let height = || async {
        let answer = Beacon::new(client.channel()).value(QueryValueRequest { height: 0 }).await;
        answer.map(|answer| answer.into_inner().height)
    };
    let began = tokio::time::Instant::now();
    let first = match height().await {
        Ok(height) => height,
        Err(status) => return Check::mend("node", status.message(), "see the node's log"),
    };
    loop {
        match height().await {
            Ok(height) if height > first => {
                return Check::ok("node", format!("{} at height {height}", client.chain_id()));
            }
            _ if began.elapsed() > PATIENCE => {
                let found = format!("no block after {first} for {} s", PATIENCE.as_secs());
                return Check::mend(
                    "node",
                    found,
                    "is the node in step with the network? `deepnoded status`",
                );
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Whether CometBFT can be told about blocks from.
async fn comet(url: &str) -> Option<Check> {
    let address = url.strip_prefix("http://")?.trim_end_matches('/');
    let connected =
        tokio::time::timeout(Duration::from_secs(5), tokio::net::TcpStream::connect(address)).await;
    Some(match connected {
        Ok(Ok(_)) => Check::ok("comet", url),
        _ => Check::warning(
            "comet",
            format!("nobody answers at {url}: the worker looks by the clock instead"),
            "correct comet in worker.toml, or leave it empty",
        ),
    })
}

async fn account(client: &Client, home: &Home, key: Option<Address>) -> Result<Vec<Check>, ClientError> {
    let Some(address) = key else { return Ok(Vec::new()) };
    let failed = |what: &'static str| {
        move |status: tonic::Status| ClientError::Query {
            what,
            code: status.code(),
            message: status.message().into(),
        }
    };
    let request = QueryBalanceRequest { address: address.to_string(), denom: "udn".into() };
    let answer = Bank::new(client.channel()).balance(request).await.map_err(failed("balance"))?;
    let amount = answer.into_inner().balance.map(|coin| coin.amount).unwrap_or_default();
    let balance: u128 = amount.parse().unwrap_or(0);

    let request = QueryWorkerRequest { address: address.to_string() };
    let worker = match Workers::new(client.channel()).worker(request).await {
        Ok(answer) => answer.into_inner().worker,
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => return Err(failed("worker")(status)),
    };
    let needed = if worker.is_some() { FEES } else { FEES + u128::from(home.config.worker.bond) };
    let found = format!("{address} has {balance} udn");
    let mut checks = vec![match balance < needed {
        false => Check::ok("account", found),
        true => Check::mend("account", found, format!("send it coins: bond and fees need {needed} udn")),
    }];
    checks.push(match worker {
        None => Check::ok("worker", "not registered yet; `run` does it"),
        Some(worker) if worker.status() == WorkerStatus::Barred => Check::mend(
            "worker",
            "barred for ever: it signed two receipts for one task",
            "make another key (deepnode-worker init in another home), and never run two workers on one",
        ),
        Some(worker) if worker.validator.is_empty() => Check::warning(
            "worker",
            "no validator consented to be backed: its work earns fees, but no voting power for anybody",
            "ask the validator of worker.validator for its consent: `deepnoded tx workers approve`",
        ),
        Some(worker) => {
            let status = worker.status().as_str_name().trim_start_matches("WORKER_STATUS_").to_lowercase();
            Check::ok("worker", format!("{status}, {} udn bonded, backs {}", worker.bond, worker.validator))
        }
    });
    Ok(checks)
}

async fn model(client: &Client, id: &str) -> Check {
    match deepnode_client::task::model(client, id).await {
        Ok(model) if model.status() == ModelStatus::Active => {
            Check::ok("on chain", format!("{} is active in class {}", model.name, model.class))
        }
        Ok(model) => {
            let status = model.status().as_str_name().trim_start_matches("MODEL_STATUS_").to_lowercase();
            let remedy =
                "it takes no tasks until it is active: `deepnoded query models model` says what it waits for";
            Check::warning("on chain", format!("{} is {status}", model.name), remedy)
        }
        Err(ClientError::Query { code: Code::NotFound, .. }) => Check::warning(
            "on chain",
            format!("nobody registered model {id}"),
            "register it (`deepnoded tx models`), or list others in worker.toml",
        ),
        Err(error) => Check::mend("on chain", error.to_string(), "see the node's log"),
    }
}
