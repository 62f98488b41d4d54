//! cosmos.base.tendermint: blocks, validators, and CometBFT's view of the node.

use std::ops::Range;

use deepnode_core::query::Status;
use deepnode_proto::cosmos::base::query::v1beta1::{PageRequest, PageResponse};
use deepnode_proto::cosmos::base::tendermint::v1beta1::*;
use deepnode_proto::cosmos::crypto::ed25519::PubKey;
use deepnode_proto::{Any, AnyExt};
use tendermint::block::Height;
use tendermint_proto::v0_38::abci::RequestQuery;
use tendermint_proto::v0_38::p2p::{DefaultNodeInfo, DefaultNodeInfoOther, ProtocolVersion};
use tendermint_proto::v0_38::types as comet;
use tendermint_rpc::endpoint::block::Response as FoundBlock;

use super::{Node, Result, Services};

/// The API of the Cosmos SDK that clients may expect; Hermes reads it from the dependencies.
const SDK_API: &str = "v0.50.0";

/// Entries of a page, unless the request says how many.
const PAGE: u64 = 100;

pub fn register(services: &mut Services) {
    services
        .asking("/cosmos.base.tendermint.v1beta1.Service/GetNodeInfo", node_info)
        .asking("/cosmos.base.tendermint.v1beta1.Service/GetSyncing", syncing)
        .asking("/cosmos.base.tendermint.v1beta1.Service/GetLatestBlock", latest_block)
        .asking("/cosmos.base.tendermint.v1beta1.Service/GetBlockByHeight", block_by_height)
        .asking("/cosmos.base.tendermint.v1beta1.Service/GetLatestValidatorSet", latest_validators)
        .asking("/cosmos.base.tendermint.v1beta1.Service/GetValidatorSetByHeight", validators_at)
        .on("/cosmos.base.tendermint.v1beta1.Service/ABCIQuery", abci_query);
}

async fn node_info(node: Node, _: GetNodeInfoRequest) -> Result<GetNodeInfoResponse> {
    let status = node.rpc.status().await?;
    Ok(GetNodeInfoResponse {
        default_node_info: Some(default_node_info(&status.node_info)),
        application_version: Some(VersionInfo {
            name: "deepnode".into(),
            app_name: "deepnoded".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            build_deps: vec![Module {
                path: "github.com/cosmos/cosmos-sdk".into(),
                version: SDK_API.into(),
                sum: String::new(),
            }],
            cosmos_sdk_version: SDK_API.into(),
            ..VersionInfo::default()
        }),
    })
}

fn default_node_info(info: &tendermint::node::Info) -> DefaultNodeInfo {
    DefaultNodeInfo {
        protocol_version: Some(ProtocolVersion {
            p2p: info.protocol_version.p2p,
            block: info.protocol_version.block,
            app: info.protocol_version.app,
        }),
        default_node_id: info.id.to_string(),
        listen_addr: info.listen_addr.to_string(),
        network: info.network.to_string(),
        version: info.version.to_string(),
        channels: hex::decode(info.channels.to_string()).unwrap_or_default(),
        moniker: info.moniker.to_string(),
        other: Some(DefaultNodeInfoOther {
            tx_index: match info.other.tx_index {
                tendermint::node::info::TxIndexStatus::On => "on".into(),
                tendermint::node::info::TxIndexStatus::Off => "off".into(),
            },
            rpc_address: info.other.rpc_address.clone(),
        }),
    }
}

async fn syncing(node: Node, _: GetSyncingRequest) -> Result<GetSyncingResponse> {
    Ok(GetSyncingResponse { syncing: node.rpc.status().await?.sync_info.catching_up })
}

async fn latest_block(node: Node, _: GetLatestBlockRequest) -> Result<GetLatestBlockResponse> {
    let latest = node.rpc.status().await?.sync_info.latest_block_height;
    if latest.value() == 0 {
        return Err(Status::not_found("the chain has no block yet"));
    }
    let (block_id, block) = wire(node.rpc.block(Some(latest)).await?);
    Ok(GetLatestBlockResponse {
        block_id: Some(block_id),
        sdk_block: Some(sdk_block(&block)),
        block: Some(block),
    })
}

async fn block_by_height(node: Node, q: GetBlockByHeightRequest) -> Result<GetBlockByHeightResponse> {
    let (block_id, block) = wire(node.rpc.block(Some(height(q.height)?)).await?);
    Ok(GetBlockByHeightResponse {
        block_id: Some(block_id),
        sdk_block: Some(sdk_block(&block)),
        block: Some(block),
    })
}

/// A block as the wire has it.
pub fn wire(found: FoundBlock) -> (comet::BlockId, comet::Block) {
    (found.block_id.into(), found.block.into())
}

/// The same block with its proposer in bech32.
fn sdk_block(block: &comet::Block) -> Block {
    let header = block.header.clone().unwrap_or_default();
    Block {
        header: Some(Header {
            version: header.version,
            chain_id: header.chain_id,
            height: header.height,
            time: header.time.map(|t| deepnode_proto::Timestamp { seconds: t.seconds, nanos: t.nanos }),
            last_block_id: header.last_block_id,
            last_commit_hash: header.last_commit_hash,
            data_hash: header.data_hash,
            validators_hash: header.validators_hash,
            next_validators_hash: header.next_validators_hash,
            consensus_hash: header.consensus_hash,
            app_hash: header.app_hash,
            last_results_hash: header.last_results_hash,
            evidence_hash: header.evidence_hash,
            proposer_address: consensus_address(&header.proposer_address),
        }),
        data: block.data.clone(),
        evidence: block.evidence.clone(),
        last_commit: block.last_commit.clone(),
    }
}

fn consensus_address(bytes: &[u8]) -> String {
    deepnode_tx::Address(bytes.try_into().unwrap_or_default()).to_consensus()
}

/// A height that a block can have.
pub fn height(height: i64) -> Result<Height> {
    match Height::try_from(height) {
        Ok(h) if h.value() > 0 => Ok(h),
        _ => Err(Status::invalid(format!("height {height} must be above 0"))),
    }
}

async fn latest_validators(
    node: Node,
    q: GetLatestValidatorSetRequest,
) -> Result<GetLatestValidatorSetResponse> {
    let latest = node.rpc.status().await?.sync_info.latest_block_height;
    let (validators, page) = validators(&node, latest, q.pagination).await?;
    Ok(GetLatestValidatorSetResponse {
        block_height: latest.value() as i64,
        validators,
        pagination: Some(page),
    })
}

async fn validators_at(
    node: Node,
    q: GetValidatorSetByHeightRequest,
) -> Result<GetValidatorSetByHeightResponse> {
    let (validators, page) = validators(&node, height(q.height)?, q.pagination).await?;
    Ok(GetValidatorSetByHeightResponse { block_height: q.height, validators, pagination: Some(page) })
}

async fn validators(
    node: &Node,
    height: Height,
    page: Option<PageRequest>,
) -> Result<(Vec<Validator>, PageResponse)> {
    let found = node.rpc.validators(Some(height)).await?;
    let (range, page) = paginate(page, found.len())?;
    let one = |v: &tendermint::validator::Info| Validator {
        address: consensus_address(v.address.as_bytes()),
        pub_key: Some(Any::pack(&PubKey { key: v.pub_key.to_bytes() })),
        voting_power: v.power.value() as i64,
        proposer_priority: v.proposer_priority.value(),
    };
    Ok((found[range].iter().map(one).collect(), page))
}

/// Which of `total` entries a page holds. What CometBFT hands out as a whole has no keys, only offsets.
pub fn paginate(page: Option<PageRequest>, total: usize) -> Result<(Range<usize>, PageResponse)> {
    let page = page.unwrap_or_default();
    if !page.key.is_empty() {
        return Err(Status::invalid("pagination.key: there are no keys here, use pagination.offset"));
    }
    let begin = usize::try_from(page.offset).unwrap_or(usize::MAX);
    if begin > total || (begin == total && total > 0) {
        return Err(Status::invalid(format!("pagination.offset {begin} must be below {total}")));
    }
    let limit = if page.limit == 0 { PAGE } else { page.limit };
    let end = begin.saturating_add(usize::try_from(limit).unwrap_or(usize::MAX)).min(total);
    Ok((begin..end, PageResponse { next_key: Vec::new(), total: total as u64 }))
}

/// Of the application's own paths only: a method has its own way, and this must not lead back to itself.
fn abci_query(node: &Node, q: AbciQueryRequest) -> Result<AbciQueryResponse> {
    match q.path.trim_start_matches('/').split('/').next() {
        Some("app" | "store" | "p2p") => {}
        _ if q.path.is_empty() => return Err(Status::invalid("path is empty")),
        _ => return Err(Status::invalid(format!("path {:?} must begin with /app, /store or /p2p", q.path))),
    }
    let request = RequestQuery { data: q.data.into(), path: q.path, height: q.height, prove: q.prove };
    let answer = node.app.abci_query(&request);
    let op = |op: tendermint_proto::v0_38::crypto::ProofOp| ProofOp {
        r#type: op.r#type,
        key: op.key,
        data: op.data,
    };
    Ok(AbciQueryResponse {
        code: answer.code,
        log: answer.log,
        info: answer.info,
        index: answer.index,
        key: answer.key.into(),
        value: answer.value.into(),
        proof_ops: answer.proof_ops.map(|proof| ProofOps { ops: proof.ops.into_iter().map(op).collect() }),
        height: answer.height,
        codespace: answer.codespace,
    })
}
