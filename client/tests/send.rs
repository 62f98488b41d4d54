//! The client against a node in this process that checks what a chain checks: signature, sequence, gas, fee.

use deepnode_client::{Client, ClientError, Gas, Options};
use deepnode_proto::cosmos::auth::v1beta1::query_server::{Query as Auth, QueryServer as AuthServer};
use deepnode_proto::cosmos::auth::v1beta1::{BaseAccount, QueryAccountInfoRequest, QueryAccountInfoResponse};
use deepnode_proto::cosmos::bank::v1beta1::MsgSend;
use deepnode_proto::cosmos::base::abci::v1beta1::{GasInfo, TxResponse};
use deepnode_proto::cosmos::base::tendermint::v1beta1::service_server::{
    Service as Node, ServiceServer as NodeServer,
};
use deepnode_proto::cosmos::base::tendermint::v1beta1::{GetNodeInfoRequest, GetNodeInfoResponse};
use deepnode_proto::cosmos::tx::v1beta1::service_server::{Service as Txs, ServiceServer as TxServer};
use deepnode_proto::cosmos::tx::v1beta1::{
    BroadcastMode, BroadcastTxRequest, BroadcastTxResponse, GetTxRequest, GetTxResponse, SimulateRequest,
    SimulateResponse,
};
use deepnode_proto::tendermint_proto::v0_38::p2p::DefaultNodeInfo;
use deepnode_proto::{Any, AnyExt};
use deepnode_tx::{sign_bytes, Address, PublicKey, SignerData, SigningKey, Tx};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What the node knows of the one account that it has.
#[derive(Default)]
struct State {
    committed: u64,
    /// Sequence by the mempool's state, ahead of the committed one.
    pending: u64,
    taken: Vec<(String, Tx)>,
    /// Answers "not found" this often before a transaction is in a block.
    blocks_to_wait: u32,
    /// Code of the transactions in the next block.
    outcome: u32,
    /// The mempool takes a transaction, and then the connection breaks.
    broken: bool,
    /// What the node says instead of whether a transaction is in a block.
    defect: Option<Status>,
}

#[derive(Clone)]
struct FakeNode {
    account: Address,
    state: Arc<Mutex<State>>,
}

const CHAIN: &str = "deepnode-test-1";
const NUMBER: u64 = 12;

#[tonic::async_trait]
impl Node for FakeNode {
    async fn get_node_info(
        &self,
        _: Request<GetNodeInfoRequest>,
    ) -> Result<Response<GetNodeInfoResponse>, Status> {
        let info = DefaultNodeInfo { network: CHAIN.into(), ..Default::default() };
        Ok(Response::new(GetNodeInfoResponse { default_node_info: Some(info), application_version: None }))
    }
}

#[tonic::async_trait]
impl Auth for FakeNode {
    async fn account_info(
        &self,
        request: Request<QueryAccountInfoRequest>,
    ) -> Result<Response<QueryAccountInfoResponse>, Status> {
        let address = request.into_inner().address;
        if address != self.account.to_string() {
            return Err(Status::not_found(format!("account {address} not found")));
        }
        let sequence = self.state.lock().unwrap().committed;
        let info = BaseAccount { address, pub_key: None, account_number: NUMBER, sequence };
        Ok(Response::new(QueryAccountInfoResponse { info: Some(info) }))
    }
}

impl FakeNode {
    /// What the ante handler says of the sequence.
    fn mismatch(&self, tx: &Tx) -> Option<String> {
        let got = tx.auth_info.signer_infos[0].sequence;
        let expected = if tx.body.unordered { 0 } else { self.state.lock().unwrap().pending };
        (got != expected).then(|| {
            format!("account sequence mismatch, expected {expected}, got {got}: incorrect account sequence")
        })
    }
}

#[tonic::async_trait]
impl Txs for FakeNode {
    async fn simulate(
        &self,
        request: Request<SimulateRequest>,
    ) -> Result<Response<SimulateResponse>, Status> {
        let tx = Tx::decode(&request.into_inner().tx_bytes)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        assert_eq!((tx.auth_info.fee.as_ref().unwrap().gas_limit, tx.signatures.len()), (0, 1));
        if let Some(error) = self.mismatch(&tx) {
            return Err(Status::unknown(error));
        }
        let gas_info = Some(GasInfo { gas_wanted: 0, gas_used: 50_000 });
        Ok(Response::new(SimulateResponse { gas_info, result: None }))
    }

    async fn broadcast_tx(
        &self,
        request: Request<BroadcastTxRequest>,
    ) -> Result<Response<BroadcastTxResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.mode, i32::from(BroadcastMode::Sync));
        let tx = Tx::decode(&request.tx_bytes).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let info = &tx.auth_info.signer_infos[0];
        let key = PublicKey::from_any(info.public_key.as_ref().unwrap()).unwrap();
        let data = SignerData { chain_id: CHAIN.into(), account_number: NUMBER, sequence: info.sequence };
        let bytes = sign_bytes(&tx, info.mode_info.as_ref().unwrap(), &data).unwrap();
        key.verify(&bytes, &tx.signatures[0]).unwrap();
        let mut response = TxResponse::default();
        if let Some(log) = self.mismatch(&tx) {
            (response.code, response.codespace, response.raw_log) = (32, "sdk".into(), log);
        } else {
            let mut state = self.state.lock().unwrap();
            state.pending += u64::from(!tx.body.unordered);
            let hash = tx.hash.iter().map(|b| format!("{b:02X}")).collect();
            state.taken.push((hash, tx));
            if state.broken {
                return Err(Status::unavailable("broken pipe"));
            }
        }
        Ok(Response::new(BroadcastTxResponse { tx_response: Some(response) }))
    }

    async fn get_tx(&self, request: Request<GetTxRequest>) -> Result<Response<GetTxResponse>, Status> {
        let hash = request.into_inner().hash;
        let mut state = self.state.lock().unwrap();
        if let Some(defect) = &state.defect {
            return Err(defect.clone());
        }
        if state.blocks_to_wait > 0 || !state.taken.iter().any(|(taken, _)| *taken == hash) {
            state.blocks_to_wait = state.blocks_to_wait.saturating_sub(1);
            return Err(Status::not_found(format!("tx not found: {hash}")));
        }
        state.committed = state.pending;
        let response = TxResponse {
            txhash: hash,
            height: 8,
            code: state.outcome,
            codespace: "bank".into(),
            raw_log: "spendable balance is smaller".into(),
            gas_wanted: 70_000,
            ..Default::default()
        };
        Ok(Response::new(GetTxResponse { tx: None, tx_response: Some(response) }))
    }
}

async fn serve(node: FakeNode) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder()
        .add_service(NodeServer::new(node.clone()))
        .add_service(AuthServer::new(node.clone()))
        .add_service(TxServer::new(node));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn key() -> SigningKey {
    SigningKey::new(&[5; 32]).unwrap()
}

async fn start(state: State) -> (Client, Arc<Mutex<State>>) {
    let state = Arc::new(Mutex::new(state));
    let node = FakeNode { account: key().address(), state: state.clone() };
    (Client::connect(&serve(node).await).await.unwrap(), state)
}

fn message() -> Vec<Any> {
    vec![Any::pack(&MsgSend { from_address: key().address().to_string(), ..Default::default() })]
}

fn options() -> Options {
    Options { gas_price: Some("0.0251udn".parse().unwrap()), ..Default::default() }
}

#[tokio::test]
async fn a_transaction_is_simulated_priced_signed_and_waited_for() {
    let (client, state) =
        start(State { committed: 3, pending: 3, blocks_to_wait: 1, ..Default::default() }).await;
    assert_eq!(client.chain_id(), CHAIN);
    assert_eq!(client.account(key().address()).await.unwrap(), (NUMBER, 3));
    let sent = Options { memo: "rent".into(), timeout_height: 99, ..options() };
    let response = client.send(&key(), message(), sent).await.unwrap();
    let state = state.lock().unwrap();
    let (hash, tx) = &state.taken[0];
    assert_eq!((&response.txhash, response.height), (hash, 8));
    let fee = tx.auth_info.fee.as_ref().unwrap();
    assert_eq!(fee.gas_limit, 70_000, "140% of what the simulation used");
    assert_eq!((fee.amount[0].amount.as_str(), fee.amount[0].denom.as_str()), ("1757", "udn"));
    assert_eq!((tx.body.memo.as_str(), tx.body.timeout_height), ("rent", 99));
}

#[tokio::test]
async fn transactions_of_one_account_follow_each_other_without_waiting() {
    let (client, state) = start(State { committed: 3, pending: 3, ..Default::default() }).await;
    let quick = Options { wait: None, ..options() };
    let sends = (0..8).map(|_| {
        let (client, quick) = (client.clone(), quick.clone());
        tokio::spawn(async move { client.send(&key(), message(), quick).await })
    });
    for sent in sends.collect::<Vec<_>>() {
        sent.await.unwrap().unwrap();
    }
    // Another program of the same account was quicker; then the mempool is emptied.
    state.lock().unwrap().pending += 5;
    client.send(&key(), message(), quick.clone()).await.unwrap();
    state.lock().unwrap().pending = 3;
    client.send(&key(), message(), Options { gas: Gas::Limit(60_000), ..quick }).await.unwrap();
    let sequences: Vec<u64> =
        state.lock().unwrap().taken.iter().map(|(_, tx)| tx.auth_info.signer_infos[0].sequence).collect();
    assert_eq!(sequences, [3, 4, 5, 6, 7, 8, 9, 10, 16, 3]);
}

#[tokio::test]
async fn unordered_transactions_need_no_sequence() {
    let (client, state) = start(State { committed: 3, pending: 3, ..Default::default() }).await;
    let unordered = Options { unordered: Some(Duration::from_secs(300)), wait: None, ..options() };
    for _ in 0..2 {
        client.send(&key(), message(), unordered.clone()).await.unwrap();
    }
    let state = state.lock().unwrap();
    assert_eq!(state.pending, 3);
    let times: Vec<_> = state.taken.iter().map(|(_, tx)| tx.body.timeout_timestamp.unwrap()).collect();
    assert_ne!(times[0], times[1]);
    assert!(state.taken.iter().all(|(_, tx)| tx.body.unordered));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!((now + 200..=now + 301).contains(&times[0].seconds));
}

#[tokio::test]
async fn failures_say_what_happened() {
    let (client, state) = start(State { outcome: 5, blocks_to_wait: 1_000, ..Default::default() }).await;
    let short = Options { wait: Some(Duration::from_millis(1)), ..options() };
    let error = client.send(&key(), message(), short.clone()).await.unwrap_err();
    assert!(matches!(&error, ClientError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("it may still be included"));

    state.lock().unwrap().blocks_to_wait = 0;
    let error = client.send(&key(), message(), short).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Transaction { code: 5, height: 8, gas_wanted: 70_000, .. }),
        "{error}"
    );
    assert!(!error.may_be_included());
    assert!(error
        .to_string()
        .contains("failed at height 8: spendable balance is smaller (code 5, codespace bank)"));

    let stranger = SigningKey::new(&[6; 32]).unwrap();
    let error = client.send(&stranger, message(), options()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("account {} does not exist on {CHAIN}: it needs to receive coins first", stranger.address())
    );
    let error = client.expect_chain("mainnet").unwrap_err().to_string();
    assert_eq!(error, format!("the node is of chain {CHAIN:?}, expected \"mainnet\""));
}

#[tokio::test]
async fn what_was_sent_may_be_included_whatever_fails_then() {
    let (client, state) = start(State { committed: 3, pending: 3, broken: true, ..Default::default() }).await;
    let error = client.send(&key(), message(), options()).await.unwrap_err();
    assert!(error.may_be_included(), "{error}");
    let hash = state.lock().unwrap().taken[0].0.clone();
    assert!(error.to_string().starts_with(&format!("transaction {hash} was sent")), "{error}");
    assert!(error.to_string().contains("broken pipe"), "{error}");

    // The mempool has it, so the next one follows it.
    let defect = Some(Status::internal("the index is damaged"));
    state.lock().unwrap().broken = false;
    state.lock().unwrap().defect = defect;
    let short = Options { wait: Some(Duration::from_millis(50)), ..options() };
    let error = client.send(&key(), message(), short).await.unwrap_err();
    assert!(error.may_be_included() && error.to_string().contains("the index is damaged"), "{error}");
    assert_eq!(state.lock().unwrap().taken.len(), 2);

    // Trouble that ends in time is none.
    let (patient, mended) = (client.clone(), state.clone());
    let sending = tokio::spawn(async move { patient.send(&key(), message(), options()).await });
    while state.lock().unwrap().taken.len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    mended.lock().unwrap().defect = None;
    assert_eq!(sending.await.unwrap().unwrap().height, 8);

    // Nothing was sent.
    let stranger = SigningKey::new(&[6; 32]).unwrap();
    assert!(!client.send(&stranger, message(), options()).await.unwrap_err().may_be_included());
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_named() {
    let error =
        |endpoint: &'static str| async move { Client::connect(endpoint).await.unwrap_err().to_string() };
    assert!(error("localhost").await.contains("no port, expected host:port"));
    assert!(error("https://node:443").await.contains("scheme \"https\" is not supported"));
    let refused = error("127.0.0.1:1").await;
    assert!(refused.starts_with("no node answers at 127.0.0.1:1: Connection refused"), "{refused}");
    assert!(refused.contains("is deepnoded running"), "{refused}");
}
