//! cosmos.tx: simulating, sending, finding and reading transactions.

use std::collections::BTreeMap;

use deepnode_core::query::{Code, Status};
use deepnode_proto::cosmos::base::abci::v1beta1::TxResponse;
use deepnode_proto::cosmos::tx::v1beta1::*;
use deepnode_proto::{Any, Name};
use deepnode_tx::MAX_TX_BYTES;
use prost::Message;
use tendermint::abci::types::ExecTxResult;
use tendermint::block::Height;
use tendermint_rpc::query::Query;
use tendermint_rpc::Order as RpcOrder;

use super::{blocks, Node, Result, Services};
use crate::comet::RpcError;

/// Changes the mempool, so that it is no query.
pub const BROADCAST: &str = "/cosmos.tx.v1beta1.Service/BroadcastTx";

pub fn register(services: &mut Services) {
    services
        .on("/cosmos.tx.v1beta1.Service/Simulate", simulate)
        .on("/cosmos.tx.v1beta1.Service/TxDecode", decode)
        .on("/cosmos.tx.v1beta1.Service/TxEncode", encode)
        .asking(BROADCAST, broadcast)
        .asking("/cosmos.tx.v1beta1.Service/GetTx", get_tx)
        .asking("/cosmos.tx.v1beta1.Service/GetTxsEvent", txs_event)
        .asking("/cosmos.tx.v1beta1.Service/GetBlockWithTxs", block_with_txs);
}

fn simulate(node: &Node, request: SimulateRequest) -> Result<SimulateResponse> {
    #[allow(deprecated)] // cosmpy still sends the transaction itself
    let bytes = match request.tx {
        Some(tx) if request.tx_bytes.is_empty() => tx.encode_to_vec(),
        _ => request.tx_bytes,
    };
    if bytes.is_empty() {
        return Err(Status::invalid("empty txBytes is not allowed"));
    }
    let answer = node.app.simulation(&bytes)?;
    Ok(SimulateResponse { gas_info: answer.gas_info, result: answer.result })
}

async fn broadcast(node: Node, request: BroadcastTxRequest) -> Result<BroadcastTxResponse> {
    if request.tx_bytes.is_empty() {
        return Err(Status::invalid("invalid empty tx"));
    }
    let hash = deepnode_tx::hash(&request.tx_bytes);
    let size = request.tx_bytes.len();
    if size > MAX_TX_BYTES {
        let why = format!("tx_bytes of {size} bytes, at most {MAX_TX_BYTES}: tx too large");
        return Ok(BroadcastTxResponse { tx_response: Some(refused_by_mempool(&hash, &why)?) });
    }
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
    Ok(BroadcastTxResponse { tx_response: Some(tx_response) })
}

/// CometBFT's own refusals, with the codes that Cosmos clients know them by.
fn refused_by_mempool(hash: &[u8], why: &str) -> Result<TxResponse> {
    let code = match why {
        w if w.contains("already exists in cache") => 19,
        w if w.contains("mempool is full") => 20,
        w if w.contains("too large") => 21,
        // Among them that CheckTx did not answer in time: the mempool may have the transaction all the same.
        _ => return Err(Status::new(Code::Internal, why)),
    };
    Ok(TxResponse {
        txhash: hex_upper(hash),
        code,
        codespace: "sdk".into(),
        raw_log: why.into(),
        ..TxResponse::default()
    })
}

async fn get_tx(node: Node, request: GetTxRequest) -> Result<GetTxResponse> {
    let hash = request
        .hash
        .parse()
        .map_err(|_| Status::invalid(format!("hash {:?} must be 64 hex digits", request.hash)))?;
    let found = node.rpc.tx(hash).await.map_err(|e| match e {
        RpcError::Rejected(_) => Status::not_found(format!("tx not found: {}", request.hash)),
        e => e.into(),
    })?;
    let time = block_time(&node, found.height).await?;
    let (tx, response) = tx_response(found.hash.as_bytes(), found.height, &found.tx_result, &found.tx, time)?;
    Ok(GetTxResponse { tx: Some(tx), tx_response: Some(response) })
}

async fn txs_event(node: Node, request: GetTxsEventRequest) -> Result<GetTxsEventResponse> {
    if request.query.is_empty() {
        return Err(Status::invalid("query cannot be empty"));
    }
    let query: Query =
        request.query.parse().map_err(|e| Status::invalid(format!("query {:?}: {e}", request.query)))?;
    let page = u32::try_from(request.page.max(1)).map_err(|_| Status::invalid("page is too large"))?;
    let limit = if request.limit == 0 { 100 } else { request.limit.min(100) };
    let order = match request.order_by() {
        OrderBy::Desc => RpcOrder::Descending,
        _ => RpcOrder::Ascending,
    };
    let found = node.rpc.tx_search(query, page, u8::try_from(limit).unwrap_or(100), order).await?;
    let mut response =
        GetTxsEventResponse { total: found.total_count.into(), ..GetTxsEventResponse::default() };
    let mut times = BTreeMap::new();
    for tx in &found.txs {
        let time = match times.get(&tx.height) {
            Some(time) => String::clone(time),
            None => times.entry(tx.height).or_insert(block_time(&node, tx.height).await?).clone(),
        };
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
) -> Result<(Tx, TxResponse)> {
    let tx = Tx::decode(bytes)
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
        tx: Some(Any { type_url: Tx::type_url(), value: bytes.to_vec() }),
        timestamp,
        events: result.events.iter().map(|e| e.clone().into()).collect(),
        ..TxResponse::default()
    };
    Ok((tx, response))
}

/// A block and its transactions, decoded.
async fn block_with_txs(node: Node, q: GetBlockWithTxsRequest) -> Result<GetBlockWithTxsResponse> {
    let (block_id, block) = blocks::wire(node.rpc.block(Some(blocks::height(q.height)?)).await?);
    let txs = block.data.as_ref().map(|data| data.txs.as_slice()).unwrap_or_default();
    let (range, page) = blocks::paginate(q.pagination, txs.len())?;
    // A block may hold bytes that are no transaction: they failed with code 2 and are shown empty, in their place.
    let txs = txs[range].iter().map(|bytes| Tx::decode(bytes.as_slice()).unwrap_or_default()).collect();
    Ok(GetBlockWithTxsResponse { txs, block_id: Some(block_id), block: Some(block), pagination: Some(page) })
}

/// As strictly as the mempool decodes.
fn decode(_: &Node, q: TxDecodeRequest) -> Result<TxDecodeResponse> {
    if q.tx_bytes.is_empty() {
        return Err(Status::invalid("tx_bytes is empty"));
    }
    deepnode_tx::Tx::decode(&q.tx_bytes).map_err(|e| Status::invalid(format!("tx_bytes: {e}")))?;
    Ok(TxDecodeResponse { tx: Some(super::decode(&q.tx_bytes)?) })
}

fn encode(_: &Node, q: TxEncodeRequest) -> Result<TxEncodeResponse> {
    let Tx { body, auth_info, signatures } = q.tx.ok_or_else(|| Status::invalid("tx is empty"))?;
    let body = body.ok_or_else(|| Status::invalid("tx.body is empty"))?;
    let auth_info = auth_info.ok_or_else(|| Status::invalid("tx.auth_info is empty"))?;
    let raw =
        TxRaw { body_bytes: body.encode_to_vec(), auth_info_bytes: auth_info.encode_to_vec(), signatures };
    Ok(TxEncodeResponse { tx_bytes: raw.encode_to_vec() })
}

fn hex_upper(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}
