//! The node, and what the chain says of the account, of its worker or auditor, and of the models.

use std::time::Duration;

use deepnode_client::keyring::Passphrase;
use deepnode_client::{Client, ClientError};
use deepnode_proto::cosmos::bank::v1beta1::query_client::QueryClient as Bank;
use deepnode_proto::cosmos::bank::v1beta1::QueryBalanceRequest;
use deepnode_proto::cosmos::base::query::v1beta1::PageRequest;
use deepnode_proto::deepnode::audits::v1::query_client::QueryClient as Audits;
use deepnode_proto::deepnode::audits::v1::{self as audits, Auditor, QueryAuditorsRequest};
use deepnode_proto::deepnode::beacon::v1::query_client::QueryClient as Beacon;
use deepnode_proto::deepnode::beacon::v1::QueryValueRequest;
use deepnode_proto::deepnode::models::v1::query_client::QueryClient as Models;
use deepnode_proto::deepnode::models::v1::{ModelStatus, QueryModelsRequest};
use deepnode_proto::deepnode::workers::v1::query_client::QueryClient as Workers;
use deepnode_proto::deepnode::workers::v1::{QueryWorkerRequest, Worker, WorkerStatus};
use deepnode_tx::Address;
use tonic::Code;

use super::{Check, Home, Role};

/// How long a chain may take for its next block.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);
/// udn besides the bond that transactions need for a while.
const FEES: u128 = 1_000_000;
/// Most auditors, and most models, that are looked at.
const MOST: u64 = 1000;

pub async fn examine(home: &Home, role: Role) -> Vec<Check> {
    let (node, chain_id) = (&home.config.node, &home.config.chain_id);
    let client = match Client::connect(node).await.and_then(|client| client.expect_chain(chain_id)) {
        Ok(client) => client,
        Err(error) => {
            let remedy = "start the node, or correct node and chain_id in worker.toml";
            return vec![Check::mend("node", error.to_string(), remedy)];
        }
    };
    let mut checks = vec![blocks(&client).await];
    // A gateway looks by the clock.
    if role != Role::Gateway {
        checks.extend(comet(&home.config.comet).await);
    }
    let key =
        home.keyring(Passphrase::Prompt).and_then(|keyring| Ok(keyring.show(&home.config.key)?.address));
    if let Ok(address) = key {
        match account(&client, home, role, address).await {
            Ok(found) => checks.extend(found),
            Err(error) => checks.push(Check::mend("account", error.to_string(), "see the node's log")),
        }
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

fn failed(what: &'static str) -> impl Fn(tonic::Status) -> ClientError {
    move |status| ClientError::Query { what, code: status.code(), message: status.message().into() }
}

/// The account's coins, and what the chain knows of it in its role.
async fn account(
    client: &Client,
    home: &Home,
    role: Role,
    address: Address,
) -> Result<Vec<Check>, ClientError> {
    let request = QueryBalanceRequest { address: address.to_string(), denom: "udn".into() };
    let answer = Bank::new(client.channel()).balance(request).await.map_err(failed("balance"))?;
    let amount = answer.into_inner().balance.map(|coin| coin.amount).unwrap_or_default();
    let balance: u128 = amount.parse().unwrap_or(0);

    let (needed, what_for, mut checks) = match role {
        Role::Run => {
            let worker = worker_of(client, &address).await?;
            let bond = if worker.is_some() { 0 } else { u128::from(home.config.worker.bond) };
            (FEES + bond, "bond and fees need", vec![worker_check(worker)])
        }
        Role::Verify => (FEES, "fees need", auditor(client, home, &address).await?),
        Role::Gateway => (FEES, "answers and fees need at least", Vec::new()),
    };
    let found = format!("{address} has {balance} udn");
    let coins = match balance < needed {
        false => Check::ok("account", found),
        true => Check::mend("account", found, format!("send it coins: {what_for} {needed} udn")),
    };
    checks.insert(0, coins);
    Ok(checks)
}

async fn worker_of(client: &Client, address: &Address) -> Result<Option<Worker>, ClientError> {
    let request = QueryWorkerRequest { address: address.to_string() };
    match Workers::new(client.channel()).worker(request).await {
        Ok(answer) => Ok(answer.into_inner().worker),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(failed("worker")(status)),
    }
}

fn worker_check(worker: Option<Worker>) -> Check {
    match worker {
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
    }
}

/// Whether a validator has this key audit for it, and whether what it may be drawn for is here.
async fn auditor(client: &Client, home: &Home, address: &Address) -> Result<Vec<Check>, ClientError> {
    let pagination = Some(PageRequest { limit: MOST, ..Default::default() });
    let mut query = Audits::new(client.channel());
    let request = QueryAuditorsRequest { pagination: pagination.clone() };
    let auditors = query.auditors(request).await.map_err(failed("auditors"))?.into_inner().auditors;
    let Some(auditor) = auditors.into_iter().find(|a| a.auditor == address.to_string()) else {
        let remedy = format!(
            "its operator names it: `deepnoded tx audits register OPERATOR {address} CLASSES DEPOSIT`"
        );
        return Ok(vec![Check::mend("auditor", format!("no validator lets {address} audit for it"), remedy)]);
    };
    let params = query.params(audits::QueryParamsRequest {}).await.map_err(failed("parameters of audits"))?;
    let least = params.into_inner().params.map(|params| params.min_deposit);
    let mut checks = vec![registered(&auditor, least.as_deref())];

    let answer = Models::new(client.channel()).models(QueryModelsRequest { pagination }).await;
    let here = home.models().unwrap_or_default();
    let missing = |model: &deepnode_proto::deepnode::models::v1::Model| {
        let drawn_for = model.status() == ModelStatus::Active && auditor.classes.contains(&model.class);
        drawn_for && !here.iter().any(|id| id[..] == model.id)
    };
    for model in answer.map_err(failed("models"))?.into_inner().models.into_iter().filter(missing) {
        checks.push(Check::warning(
            "auditor",
            format!("model {} ({}) of class {} is not here", hex::encode(&model.id), model.name, model.class),
            "import it: an audit of it would be a missed duty; or register without its class",
        ));
    }
    Ok(checks)
}

fn registered(auditor: &Auditor, least: Option<&str>) -> Check {
    let Auditor { validator, classes, deposit, missed, .. } = auditor;
    let found = format!(
        "audits {} for {validator}, {deposit} udn deposited, {missed} duties missed",
        classes.join(", ")
    );
    match (deposit.parse::<u128>().ok(), least.and_then(|least| least.parse::<u128>().ok())) {
        (Some(deposit), Some(least)) if deposit < least => Check::mend(
            "auditor",
            found,
            format!(
                "the operator registers it again and adds to the deposit: below {least} udn it is not drawn"
            ),
        ),
        (Some(_), Some(_)) => Check::ok("auditor", found),
        _ => Check::mend("auditor", format!("{found}: the least deposit is not told"), "see the node's log"),
    }
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
