//! Figures read back from the chain.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use deepnode_client::Client;
use deepnode_proto::deepnode::audits::v1::query_client::QueryClient as Audits;
use deepnode_proto::deepnode::audits::v1::{Audit, QueryAuditsRequest};
use deepnode_proto::deepnode::beacon::v1::query_client::QueryClient as Beacon;
use deepnode_proto::deepnode::beacon::v1::QueryEpochRequest;
use deepnode_proto::deepnode::powr::v1::query_client::QueryClient as Powr;
use deepnode_proto::deepnode::powr::v1::{QueryTermsRequest, Terms};
use deepnode_proto::deepnode::reputation::v1::query_client::QueryClient as Reputation;
use deepnode_proto::deepnode::reputation::v1::QueryRecordRequest;

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
