//! The services about transactions, blocks and the node itself. They ask CometBFT: while it is down they answer
//! Unavailable, and everything else keeps working.

use deepnode_core::query::{Code, Status};
use deepnode_proto::cosmos::base::abci::v1beta1::TxResponse;
use deepnode_proto::cosmos::base::node::v1beta1 as node_v1;
use deepnode_proto::cosmos::base::tendermint::v1beta1 as comet_v1;
use deepnode_proto::cosmos::tx::v1beta1 as tx_v1;
use deepnode_proto::{Any, Name};
use prost::Message;
use tendermint::abci::types::ExecTxResult;
use tendermint::block::Height;
use tendermint_proto::v0_38::p2p::{DefaultNodeInfo, DefaultNodeInfoOther, ProtocolVersion};
use tendermint_rpc::query::Query;
use tendermint_rpc::Order;

use super::Node;
use crate::comet::RpcError;

/// The methods answered here.
pub const PATHS: [&str; 12] = [
    "/cosmos.tx.v1beta1.Service/Simulate",
    "/cosmos.tx.v1beta1.Service/BroadcastTx",
    "/cosmos.tx.v1beta1.Service/GetTx",
    "/cosmos.tx.v1beta1.Service/GetTxsEvent",
    "/cosmos.base.tendermint.v1beta1.Service/GetNodeInfo",
    "/cosmos.base.tendermint.v1beta1.Service/GetSyncing",
    "/cosmos.base.tendermint.v1beta1.Service/GetLatestBlock",
    "/cosmos.base.tendermint.v1beta1.Service/GetBlockByHeight",
    "/cosmos.base.tendermint.v1beta1.Service/GetLatestValidatorSet",
    "/cosmos.base.tendermint.v1beta1.Service/GetValidatorSetByHeight",
    "/cosmos.base.node.v1beta1.Service/Config",
    "/cosmos.base.node.v1beta1.Service/Status",
];

type Result<T> = std::result::Result<T, Status>;

impl From<RpcError> for Status {
    fn from(e: RpcError) -> Self {
        match e {
            RpcError::Unavailable { .. } => Status::new(Code::Unavailable, e),
            RpcError::Rejected(why) if why.contains("not found") => Status::not_found(why),
            RpcError::Rejected(why) => Status::invalid(why),
            RpcError::Malformed(_) => Status::new(Code::Internal, e),
        }
    }
}

/// Answers `path` if it is one of [`PATHS`].
pub async fn call(node: &Node, path: &str, request: &[u8]) -> Option<Result<Vec<u8>>> {
    let answer = match path.strip_prefix("/cosmos.")? {
        "tx.v1beta1.Service/Simulate" => encode(simulate(node, request).await),
        "tx.v1beta1.Service/BroadcastTx" => encode(broadcast(node, request).await),
        "tx.v1beta1.Service/GetTx" => encode(get_tx(node, request).await),
        "tx.v1beta1.Service/GetTxsEvent" => encode(txs_event(node, request).await),
        "base.tendermint.v1beta1.Service/GetNodeInfo" => encode(node_info(node).await),
        "base.tendermint.v1beta1.Service/GetSyncing" => encode(syncing(node).await),
        "base.tendermint.v1beta1.Service/GetLatestBlock" => encode(latest_block(node).await),
        "base.tendermint.v1beta1.Service/GetBlockByHeight" => encode(block_by_height(node, request).await),
        "base.tendermint.v1beta1.Service/GetLatestValidatorSet" => encode(latest_validators(node).await),
        "base.tendermint.v1beta1.Service/GetValidatorSetByHeight" => {
            encode(validators_at(node, request).await)
        }
        "base.node.v1beta1.Service/Config" => encode(config(node)),
        "base.node.v1beta1.Service/Status" => encode(status(node).await),
        _ => return None,
    };
    Some(answer)
}

fn encode<M: Message>(answer: Result<M>) -> Result<Vec<u8>> {
    Ok(answer?.encode_to_vec())
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(|e| Status::invalid(format!("request: {e}")))
}

async fn simulate(node: &Node, request: &[u8]) -> Result<tx_v1::SimulateResponse> {
    let request: tx_v1::SimulateRequest = decode(request)?;
    #[allow(deprecated)] // cosmpy still sends the transaction itself
    let bytes = match request.tx {
        Some(tx) if request.tx_bytes.is_empty() => tx.encode_to_vec(),
        _ => request.tx_bytes,
    };
    if bytes.is_empty() {
        return Err(Status::invalid("empty txBytes is not allowed"));
    }
    let app = node.app.clone();
    let answer = tokio::task::spawn_blocking(move || app.simulation(&bytes))
        .await
        .map_err(|e| Status::new(Code::Internal, format!("the simulation failed: {e}")))??;
    Ok(tx_v1::SimulateResponse { gas_info: answer.gas_info, result: answer.result })
}

async fn broadcast(node: &Node, request: &[u8]) -> Result<tx_v1::BroadcastTxResponse> {
    let request: tx_v1::BroadcastTxRequest = decode(request)?;
    if request.tx_bytes.is_empty() {
        return Err(Status::invalid("invalid empty tx"));
    }
    let hash = deepnode_tx::hash(&request.tx_bytes);
    let tx_response = match node.rpc.broadcast_tx_sync(request.tx_bytes).await {
        Ok(answer) => TxResponse {
            txhash: hex_upper(answer.hash.as_bytes()),
            code: answer.code.value(),
            codespace: answer.codespace,
            raw_log: answer.log,
            ..TxResponse::default()
        },
        Err(RpcError::Rejected(why)) => refused_by_mempool(&hash, &why)?,
        Err(e) => return Err(e.into()),
    };
    Ok(tx_v1::BroadcastTxResponse { tx_response: Some(tx_response) })
}

/// CometBFT's own refusals, with the codes that Cosmos clients know them by.
fn refused_by_mempool(hash: &[u8], why: &str) -> Result<TxResponse> {
    let code = match why {
        w if w.contains("already exists in cache") => 19,
        w if w.contains("mempool is full") => 20,
        w if w.contains("too large") => 21,
        _ => return Err(Status::invalid(why)),
    };
    Ok(TxResponse {
        txhash: hex_upper(hash),
        code,
        codespace: "sdk".into(),
        raw_log: why.into(),
        ..TxResponse::default()
    })
}

async fn get_tx(node: &Node, request: &[u8]) -> Result<tx_v1::GetTxResponse> {
    let request: tx_v1::GetTxRequest = decode(request)?;
    let hash = request
        .hash
        .parse()
        .map_err(|_| Status::invalid(format!("hash {:?} must be 64 hex digits", request.hash)))?;
    let found = node.rpc.tx(hash).await.map_err(|e| match e {
        RpcError::Rejected(_) => Status::not_found(format!("tx not found: {}", request.hash)),
        e => e.into(),
    })?;
    let time = block_time(node, found.height).await?;
    let (tx, response) = tx_response(found.hash.as_bytes(), found.height, &found.tx_result, &found.tx, time)?;
    Ok(tx_v1::GetTxResponse { tx: Some(tx), tx_response: Some(response) })
}

async fn txs_event(node: &Node, request: &[u8]) -> Result<tx_v1::GetTxsEventResponse> {
    let request: tx_v1::GetTxsEventRequest = decode(request)?;
    if request.query.is_empty() {
        return Err(Status::invalid("query cannot be empty"));
    }
    let query: Query =
        request.query.parse().map_err(|e| Status::invalid(format!("query {:?}: {e}", request.query)))?;
    let page = u32::try_from(request.page.max(1)).map_err(|_| Status::invalid("page is too large"))?;
    let limit = if request.limit == 0 { 100 } else { request.limit.min(100) };
    let order = match request.order_by() {
        tx_v1::OrderBy::Desc => Order::Descending,
        _ => Order::Ascending,
    };
    let found = node.rpc.tx_search(query, page, u8::try_from(limit).unwrap_or(100), order).await?;
    let mut response = tx_v1::GetTxsEventResponse {
        total: found.total_count.into(),
        ..tx_v1::GetTxsEventResponse::default()
    };
    for tx in &found.txs {
        let time = block_time(node, tx.height).await?;
        let (decoded, answer) = tx_response(tx.hash.as_bytes(), tx.height, &tx.tx_result, &tx.tx, time)?;
        response.txs.push(decoded);
        response.tx_responses.push(answer);
    }
    Ok(response)
}

async fn block_time(node: &Node, height: Height) -> Result<String> {
    let block = node.rpc.block(Some(height)).await?;
    Ok(block.block.header.time.to_rfc3339())
}

fn tx_response(
    hash: &[u8],
    height: Height,
    result: &ExecTxResult,
    bytes: &[u8],
    timestamp: String,
) -> Result<(tx_v1::Tx, TxResponse)> {
    let tx = tx_v1::Tx::decode(bytes)
        .map_err(|e| Status::new(Code::Internal, format!("a stored transaction does not decode: {e}")))?;
    let response = TxResponse {
        height: height.value() as i64,
        txhash: hex_upper(hash),
        codespace: result.codespace.clone(),
        code: result.code.value(),
        data: hex_upper(&result.data),
        raw_log: result.log.clone(),
        gas_wanted: result.gas_wanted,
        gas_used: result.gas_used,
        tx: Some(Any { type_url: tx_v1::Tx::type_url(), value: bytes.to_vec() }),
        timestamp,
        events: result.events.iter().map(|e| e.clone().into()).collect(),
        ..TxResponse::default()
    };
    Ok((tx, response))
}

async fn node_info(node: &Node) -> Result<comet_v1::GetNodeInfoResponse> {
    let status = node.rpc.status().await?;
    let info = &status.node_info;
    Ok(comet_v1::GetNodeInfoResponse {
        default_node_info: Some(default_node_info(info)),
        application_version: Some(comet_v1::VersionInfo {
            name: "deepnode".into(),
            app_name: "deepnoded".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            cosmos_sdk_version: "v0.50.0".into(),
            ..comet_v1::VersionInfo::default()
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

async fn syncing(node: &Node) -> Result<comet_v1::GetSyncingResponse> {
    Ok(comet_v1::GetSyncingResponse { syncing: node.rpc.status().await?.sync_info.catching_up })
}

async fn latest_block(node: &Node) -> Result<comet_v1::GetLatestBlockResponse> {
    let found = node.rpc.block(None).await?;
    Ok(comet_v1::GetLatestBlockResponse {
        block_id: Some(found.block_id.into()),
        block: Some(found.block.clone().into()),
        sdk_block: None,
    })
}

async fn block_by_height(node: &Node, request: &[u8]) -> Result<comet_v1::GetBlockByHeightResponse> {
    let request: comet_v1::GetBlockByHeightRequest = decode(request)?;
    let found = node.rpc.block(Some(height(request.height)?)).await?;
    Ok(comet_v1::GetBlockByHeightResponse {
        block_id: Some(found.block_id.into()),
        block: Some(found.block.clone().into()),
        sdk_block: None,
    })
}

fn height(height: i64) -> Result<Height> {
    match Height::try_from(height) {
        Ok(h) if h.value() > 0 => Ok(h),
        _ => Err(Status::invalid(format!("height {height} must be above 0"))),
    }
}

async fn latest_validators(node: &Node) -> Result<comet_v1::GetLatestValidatorSetResponse> {
    let latest = node.rpc.status().await?.sync_info.latest_block_height;
    Ok(comet_v1::GetLatestValidatorSetResponse {
        block_height: latest.value() as i64,
        validators: validators(node, latest).await?,
        pagination: None,
    })
}

async fn validators_at(node: &Node, request: &[u8]) -> Result<comet_v1::GetValidatorSetByHeightResponse> {
    let request: comet_v1::GetValidatorSetByHeightRequest = decode(request)?;
    Ok(comet_v1::GetValidatorSetByHeightResponse {
        block_height: request.height,
        validators: validators(node, height(request.height)?).await?,
        pagination: None,
    })
}

async fn validators(node: &Node, height: Height) -> Result<Vec<comet_v1::Validator>> {
    let found = node.rpc.validators(Some(height)).await?;
    let one = |v: &tendermint::validator::Info| comet_v1::Validator {
        address: deepnode_tx::Address(v.address.as_bytes().try_into().unwrap_or_default()).to_consensus(),
        pub_key: Some(Any {
            type_url: deepnode_proto::cosmos::crypto::ed25519::PubKey::type_url(),
            value: deepnode_proto::cosmos::crypto::ed25519::PubKey { key: v.pub_key.to_bytes() }
                .encode_to_vec(),
        }),
        voting_power: v.power.value() as i64,
        proposer_priority: v.proposer_priority.value(),
    };
    Ok(found.iter().map(one).collect())
}

fn config(node: &Node) -> Result<node_v1::ConfigResponse> {
    Ok(node_v1::ConfigResponse {
        minimum_gas_price: node.min_gas_prices.clone(),
        ..node_v1::ConfigResponse::default()
    })
}

async fn status(node: &Node) -> Result<node_v1::StatusResponse> {
    let block = node.app.latest_block().map_err(Status::from)?;
    Ok(node_v1::StatusResponse {
        height: block.height,
        timestamp: Some(block.time.to_proto()),
        app_hash: node.app.app_hash().to_vec(),
        ..node_v1::StatusResponse::default()
    })
}

fn hex_upper(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}
