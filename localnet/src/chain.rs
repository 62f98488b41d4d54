//! Figures read back from the chain.

use anyhow::{Context, Result};
use deepnode_client::Client;
use deepnode_proto::cosmos::bank::v1beta1::query_client::QueryClient as Bank;
use deepnode_proto::cosmos::bank::v1beta1::QueryBalanceRequest;
use deepnode_proto::cosmos::base::abci::v1beta1::{TxMsgData, TxResponse};
use deepnode_proto::cosmos::base::query::v1beta1::PageRequest;
use deepnode_proto::cosmos::tx::v1beta1::service_client::ServiceClient as Txs;
use deepnode_proto::cosmos::tx::v1beta1::GetTxRequest;
use deepnode_proto::deepnode::audits::v1::query_client::QueryClient as Audits;
use deepnode_proto::deepnode::audits::v1::{Audit, QueryAuditsRequest};
use deepnode_proto::deepnode::beacon::v1::query_client::QueryClient as Beacon;
use deepnode_proto::deepnode::beacon::v1::QueryEpochRequest;
use deepnode_proto::deepnode::powr::v1::query_client::QueryClient as Powr;
use deepnode_proto::deepnode::powr::v1::{
    Params, QueryParamsRequest, QueryTermsRequest, QueryWorkerScoreRequest, Terms,
};
use deepnode_proto::deepnode::reputation::v1::query_client::QueryClient as Reputation;
use deepnode_proto::deepnode::reputation::v1::QueryRecordRequest;
use deepnode_proto::deepnode::tasks::v1::query_client::QueryClient as Tasks;
use deepnode_proto::deepnode::tasks::v1::QueryTasksRequest;
use deepnode_proto::deepnode::workers::v1::query_client::QueryClient as Workers;
use deepnode_proto::deepnode::workers::v1::{QueryWorkerRequest, Worker};
use deepnode_proto::{AnyExt, Message, Name};

use crate::network::Network;

/// The audits of a task.
pub async fn audits(client: &Client, task: u64) -> Result<Vec<Audit>> {
    let request = QueryAuditsRequest { task_id: task, ..QueryAuditsRequest::default() };
    Ok(Audits::new(client.channel()).audits(request).await?.into_inner().audits)
}

/// The number of the epoch.
pub async fn epoch(client: &Client) -> Result<u64> {
    let answer = Beacon::new(client.channel()).epoch(QueryEpochRequest {}).await?.into_inner();
    Ok(answer.epoch.context("no epoch")?.number)
}

/// The terms of all validators at the last epoch's end.
pub async fn terms(client: &Client) -> Result<Vec<Terms>> {
    let request = QueryTermsRequest { validator: String::new() };
    Ok(Powr::new(client.channel()).terms(request).await?.into_inner().terms)
}

/// The answer of a transaction's first message.
pub fn response<M: Name + Default>(sent: &TxResponse) -> Result<M> {
    let data = TxMsgData::decode(hex::decode(&sent.data)?.as_slice())?;
    Ok(data.msg_responses.first().context("the transaction has an answer")?.unpack()?)
}

/// The parameters of PoWR.
pub async fn powr_params(client: &Client) -> Result<Params> {
    let answer = Powr::new(client.channel()).params(QueryParamsRequest {}).await?.into_inner();
    answer.params.context("powr has parameters")
}

/// The CometBFT that a node of ours supervises.
pub fn cometbft_pid(node: Option<u32>) -> Option<i32> {
    let node = node?;
    let mut tasks: Vec<String> = Vec::new();
    // The supervisor is a thread of its own, and children belong to threads.
    for task in std::fs::read_dir(format!("/proc/{node}/task")).ok()?.flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        tasks.extend(text.split_whitespace().map(str::to_owned));
    }
    let comet = |pid: &String| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "cometbft")
    };
    tasks.into_iter().find(comet)?.parse().ok()
}

/// The app hash in the header of `height`, as each validator's CometBFT has it.
pub async fn app_hashes(network: &Network, height: u64) -> Result<Vec<String>> {
    use deepnode_abci_server::comet::Rpc;
    let mut hashes = Vec::new();
    for validator in &network.validators {
        let rpc = Rpc::new(&format!("http://{}", validator.rpc))?;
        let block = rpc.block(Some(u32::try_from(height)?.into())).await?;
        hashes.push(block.block.header.app_hash.to_string());
    }
    Ok(hashes)
}

/// R of a subject, 18 decimals as text; 0 before any evidence.
pub async fn reputation(client: &Client, subject: &str, capability: &str) -> Result<String> {
    let request = QueryRecordRequest { subject: subject.into(), capability: capability.into() };
    match Reputation::new(client.channel()).record(request).await {
        Ok(answer) => Ok(answer.into_inner().record.map_or("0".into(), |r| r.reputation)),
        Err(status) if status.code() == tonic::Code::NotFound => Ok("0".into()),
        Err(status) => Err(status.into()),
    }
}

/// A worker as it is now.
pub async fn worker(client: &Client, address: &str) -> Result<Worker> {
    let request = QueryWorkerRequest { address: address.into() };
    let answer = Workers::new(client.channel()).worker(request).await?.into_inner();
    answer.worker.context("the worker exists")
}

/// S of a worker now, micro-CU an epoch.
pub async fn score(client: &Client, worker: &str) -> Result<u128> {
    let request = QueryWorkerScoreRequest { worker: worker.into() };
    Ok(Powr::new(client.channel()).worker_score(request).await?.into_inner().score.parse()?)
}

/// udn of an account.
pub async fn balance(client: &Client, address: &str) -> Result<u128> {
    let request = QueryBalanceRequest { address: address.into(), denom: "udn".into() };
    let answer = Bank::new(client.channel()).balance(request).await?.into_inner();
    Ok(answer.balance.context("a balance")?.amount.parse()?)
}

/// udn that a transaction paid.
pub async fn fee(client: &Client, hash: &str) -> Result<u128> {
    let found = Txs::new(client.channel()).get_tx(GetTxRequest { hash: hash.into() }).await?.into_inner();
    let fee =
        found.tx.and_then(|tx| tx.auth_info).and_then(|info| info.fee).context("a transaction has a fee")?;
    fee.amount.iter().map(|coin| Ok(coin.amount.parse::<u128>()?)).sum()
}

/// The ids of all tasks.
pub async fn tasks(client: &Client) -> Result<Vec<u64>> {
    let pagination = Some(PageRequest { limit: 1000, ..PageRequest::default() });
    let request = QueryTasksRequest { pagination, ..QueryTasksRequest::default() };
    let found = Tasks::new(client.channel()).tasks(request).await?.into_inner().tasks;
    Ok(found.iter().map(|task| task.id).collect())
}
