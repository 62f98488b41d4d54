//! The chain's gRPC, as a node serves it, so that clients run here as they are.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::Router;
use bytes::Bytes;
use deepnode_abci_server::node::grpc::Raw;
use deepnode_client::ClientError;
use deepnode_core::query::Status;
use deepnode_proto::cosmos::base::abci::v1beta1::TxResponse;
use deepnode_proto::cosmos::base::tendermint::v1beta1::GetNodeInfoResponse;
use deepnode_proto::cosmos::tx::v1beta1::{
    BroadcastTxRequest, BroadcastTxResponse, GetTxRequest, GetTxResponse, SimulateRequest, SimulateResponse,
};
use deepnode_proto::tendermint_proto::v0_38::p2p::DefaultNodeInfo;
use deepnode_proto::Message;
use tokio::sync::oneshot;
use tonic::server::{Grpc, UnaryService};

use super::{Network, Outcome, CHAIN_ID};

/// The chain's gRPC until this is dropped.
pub struct Node {
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Network {
    /// Serves gRPC on loopback: every query, and sending transactions. Transactions that come this way must not be of
    /// keys that [`Network::send`] signs with at the same time: it does not know their sequences.
    pub async fn node(&self) -> Node {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port of loopback");
        let address = listener.local_addr().expect("its address");
        let (stop, stopped) = oneshot::channel::<()>();
        let methods = Router::new().fallback(method).with_state(self.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tonic::transport::Server::builder()
            .add_routes(tonic::service::Routes::from(methods))
            .serve_with_incoming_shutdown(incoming, async {
                let _ = stopped.await;
            });
        tokio::spawn(async { server.await.expect("serving gRPC") });
        Node { address, _stop: stop }
    }

    fn answer(&self, path: &str, request: &[u8]) -> Result<Vec<u8>, Status> {
        match path {
            "/cosmos.base.tendermint.v1beta1.Service/GetNodeInfo" => {
                let info = DefaultNodeInfo { network: CHAIN_ID.into(), ..Default::default() };
                let answer = GetNodeInfoResponse { default_node_info: Some(info), application_version: None };
                Ok(answer.encode_to_vec())
            }
            "/cosmos.tx.v1beta1.Service/Simulate" => {
                let request: SimulateRequest = decode(request)?;
                let answer = self.0.app.simulation(&request.tx_bytes)?;
                Ok(SimulateResponse { gas_info: answer.gas_info, result: answer.result }.encode_to_vec())
            }
            "/cosmos.tx.v1beta1.Service/BroadcastTx" => {
                let request: BroadcastTxRequest = decode(request)?;
                let tx_response = Some(self.broadcast(request.tx_bytes.into()));
                Ok(BroadcastTxResponse { tx_response }.encode_to_vec())
            }
            "/cosmos.tx.v1beta1.Service/GetTx" => {
                let request: GetTxRequest = decode(request)?;
                let found = self.0.broadcasts.lock().get(&request.hash).cloned().flatten();
                let found = found.ok_or_else(|| Status::not_found("tx not found"))?;
                Ok(GetTxResponse { tx: None, tx_response: Some(found) }.encode_to_vec())
            }
            _ => self.0.app.query(path, 0, request).map(|(_, answer)| answer),
        }
    }

    /// Gives a transaction to the mempool; its result is found under its hash later.
    fn broadcast(&self, tx: Bytes) -> TxResponse {
        let hash = hex::encode_upper(deepnode_tx::hash(&tx));
        self.0.broadcasts.lock().insert(hash.clone(), None);
        match self.put(tx) {
            Ok(included) => {
                let (network, key) = (self.clone(), hash.clone());
                tokio::spawn(async move {
                    let Ok(outcome) = included.await else { return };
                    let response = response(key.clone(), outcome);
                    network.0.broadcasts.lock().insert(key, Some(response));
                });
                TxResponse { txhash: hash, ..Default::default() }
            }
            Err(error) => response(hash, Err(error)),
        }
    }
}

fn response(txhash: String, outcome: Outcome) -> TxResponse {
    match outcome {
        Ok((height, result)) => TxResponse {
            txhash,
            height: height as i64,
            code: result.code,
            codespace: result.codespace,
            data: hex::encode_upper(result.data),
            raw_log: result.log,
            gas_wanted: result.gas_wanted,
            gas_used: result.gas_used,
            ..Default::default()
        },
        Err(ClientError::Transaction { height, code, codespace, log, gas_wanted, .. }) => {
            TxResponse { txhash, height, code, codespace, raw_log: log, gas_wanted, ..Default::default() }
        }
        Err(other) => TxResponse { txhash, code: 1, raw_log: other.to_string(), ..Default::default() },
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Status> {
    M::decode(bytes).map_err(|e| Status::invalid(e.to_string()))
}

fn status(status: Status) -> tonic::Status {
    tonic::Status::new(tonic::Code::from_i32(status.code as i32), status.message)
}

async fn method(State(network): State<Network>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let response = Grpc::new(Raw).unary(Method { network, path }, request).await;
    response.map(axum::body::Body::new)
}

struct Method {
    network: Network,
    path: String,
}

impl UnaryService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Vec<u8>>, tonic::Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Vec<u8>>) -> Self::Future {
        let (network, path) = (self.network.clone(), self.path.clone());
        Box::pin(async move {
            let answer = network.answer(&path, &request.into_inner());
            answer.map(tonic::Response::new).map_err(status)
        })
    }
}
