//! Figures read back from the chain.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use deepnode_client::Client;
use deepnode_proto::cosmos::base::abci::v1beta1::{TxMsgData, TxResponse};
use deepnode_proto::deepnode::audits::v1::query_client::QueryClient as Audits;
use deepnode_proto::deepnode::audits::v1::{Audit, QueryAuditsRequest};
use deepnode_proto::deepnode::beacon::v1::query_client::QueryClient as Beacon;
use deepnode_proto::deepnode::beacon::v1::QueryEpochRequest;
use deepnode_proto::deepnode::powr::v1::query_client::QueryClient as Powr;
use deepnode_proto::deepnode::powr::v1::{Params, QueryParamsRequest, QueryTermsRequest, Terms};
use deepnode_proto::deepnode::reputation::v1::query_client::QueryClient as Reputation;
use deepnode_proto::deepnode::reputation::v1::QueryRecordRequest;
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

/// Voting power as CometBFT's /validators has it, by validator of the network.
pub fn powers(network: &Network) -> Result<BTreeMap<usize, u64>> {
    use deepnode_abci_server::comet::{Home, Rpc};
    let rpc = Rpc::new(&format!("http://{}", network.validators[0].rpc))?;
    // Its own runtime: CometBFT's client is asynchronous, and this is called from everywhere.
    let found = std::thread::scope(|scope| {
        let ask = || -> Result<_> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(rpc.validators(None))?)
        };
        scope.spawn(ask).join().expect("asking CometBFT does not panic")
    })?;
    let mut powers = BTreeMap::new();
    for (index, validator) in network.validators.iter().enumerate() {
        let key = Home::open(&validator.home)?.validator_key()?;
        let power = found.iter().find(|v| v.pub_key == key).map_or(0, |v| v.power.value());
        powers.insert(index, power);
    }
    Ok(powers)
}
