//! The real application in this process: blocks as CometBFT would make them, transactions, queries.
//!
//! What is asserted of it is read through queries, as a user's client reads it.

mod agents;
mod chain;
mod genesis;
mod grpc;
mod user;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deepnode_app::App;
use deepnode_client::ClientError;
use deepnode_core::query::{Code, Status};
use deepnode_core::{Time, UDN};
use deepnode_proto::cosmos::auth::v1beta1::{QueryAccountInfoRequest, QueryAccountInfoResponse};
use deepnode_proto::cosmos::base::abci::v1beta1::TxResponse;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::deepnode::audits::v1::MsgRegisterAuditor;
use deepnode_proto::tendermint_proto::google::protobuf::Timestamp as CometTimestamp;
use deepnode_proto::tendermint_proto::v0_38::abci::{
    CommitInfo, ExecTxResult, RequestFinalizeBlock, Validator as CometValidator, ValidatorUpdate, VoteInfo,
};
use deepnode_proto::tendermint_proto::v0_38::crypto::public_key::Sum;
use deepnode_proto::tendermint_proto::v0_38::types::BlockIdFlag;
use deepnode_proto::{Any, AnyExt, Message, Name, Timestamp};
use deepnode_tx::{Address, SignerData, SigningKey, TxBuilder};
use deepnode_worker::chain::Order;
use deepnode_worker::model::Model;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::oneshot;

pub use agents::{engine_options, Agent, BOND};
pub use chain::Account;
pub use genesis::{Setup, CAPABILITY, CLASS, DN, FUNDS, UNIT_PRICE};
pub use grpc::Node;
pub use user::{responses, INPUT_TOKENS};

pub const CHAIN_ID: &str = "deepnode-test-1";
/// Time between two blocks, as their headers have it.
const BLOCK_SECONDS: u64 = 1;
/// Bytes of transactions in a block.
const BLOCK_BYTES: u64 = 1 << 20;
const TX_GAS: u64 = 5_000_000;

/// A validator's keys.
pub struct Validator {
    pub operator: SigningKey,
    /// Signs verdicts.
    pub auditor: SigningKey,
    /// Of its consensus key.
    pub consensus: Address,
}

/// A chain in this process. Clones are the same chain.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    app: App,
    validators: Vec<Validator>,
    users: Vec<SigningKey>,
    workers: Vec<SigningKey>,
    model: Arc<Model>,
    /// Held while a block is made.
    consensus: Mutex<Consensus>,
    mempool: Mutex<Mempool>,
    /// What became of transactions that came over gRPC, by hash; none while they wait.
    broadcasts: Mutex<BTreeMap<String, Option<TxResponse>>>,
    /// Numbers unordered transactions.
    nonce: AtomicU32,
    dir: TempDir,
}

/// What CometBFT knows besides the application.
struct Consensus {
    height: u64,
    time: Time,
    /// Powers by consensus address: of the last block's validators, this one's and the next one's.
    sets: VecDeque<BTreeMap<Address, u64>>,
}

type Outcome = Result<(u64, ExecTxResult), ClientError>;

#[derive(Default)]
struct Mempool {
    waiting: Vec<(Bytes, oneshot::Sender<Outcome>)>,
    /// Next sequences of those whose transactions wait.
    sequences: BTreeMap<Address, u64>,
}

impl Network {
    /// The chain after its first block, in which the validators' auditors are registered.
    pub fn start(setup: Setup) -> Self {
        let network = Network(Arc::new(genesis::init(setup)));
        for Validator { operator, auditor, .. } in network.validators() {
            let message = MsgRegisterAuditor {
                operator: operator.address().to_string(),
                auditor: auditor.address().to_string(),
                classes: vec![CLASS.into()],
                deposit: Some(Coin { denom: UDN.into(), amount: (100 * DN).to_string() }),
            };
            network.submit(operator, vec![Any::pack(&message)], Order::Sequence).expect("an auditor");
        }
        network.block();
        network
    }

    pub fn validators(&self) -> &[Validator] {
        &self.0.validators
    }

    /// Keys with coins and no other part in the network.
    pub fn users(&self) -> &[SigningKey] {
        &self.0.users
    }

    /// Keys that workers may run with.
    pub fn workers(&self) -> &[SigningKey] {
        &self.0.workers
    }

    /// The active, scored model, weights and all.
    pub fn model(&self) -> &Arc<Model> {
        &self.0.model
    }

    /// A new folder that lives as long as the network.
    pub fn folder(&self, name: &str) -> std::path::PathBuf {
        let dir = self.0.dir.path().join(name);
        std::fs::create_dir_all(&dir).expect("the temporary folder is writable");
        dir
    }

    /// The chain as a key sees it.
    pub fn account(&self, key: &SigningKey) -> Account {
        Account::new(self.clone(), key.clone())
    }

    /// Voting powers as CometBFT counts them in the next block, by validator.
    pub fn powers(&self) -> Vec<u64> {
        let consensus = self.0.consensus.lock();
        let power = |v: &Validator| consensus.sets[1].get(&v.consensus).copied().unwrap_or(0);
        self.validators().iter().map(power).collect()
    }

    pub fn height(&self) -> u64 {
        self.0.app.height()
    }

    /// A module's state, as a genesis file would have it.
    pub fn section(&self, module: &str) -> serde_json::Value {
        self.0.app.export().expect("an export")[module].take()
    }

    /// Checks every module's invariants.
    pub fn invariants(&self) {
        self.0.app.invariants().expect("invariants hold");
    }

    /// Transactions in the mempool.
    pub fn waiting(&self) -> usize {
        self.0.mempool.lock().waiting.len()
    }

    /// Makes blocks at this pace until the answer is dropped.
    pub fn blocks(&self, pace: Duration) -> Blocks {
        let stop = Arc::new(AtomicBool::new(false));
        let (network, stopped) = (self.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(pace);
                network.block();
            }
        });
        Blocks { stop, thread: Some(thread) }
    }

    /// Makes one block of what waits in the mempool; answers its height. A block that its own validators would not
    /// accept, or that the application cannot execute, is a panic.
    pub fn block(&self) -> u64 {
        let app = &self.0.app;
        let mut consensus = self.0.consensus.lock();
        let (height, time) = (consensus.height + 1, consensus.time.0 + BLOCK_SECONDS * 1_000_000_000);
        let txs: Vec<Bytes> = self.0.mempool.lock().waiting.iter().map(|(tx, _)| tx.clone()).collect();
        let txs = app.prepare_proposal(&txs, height, Time(time), BLOCK_BYTES).expect("PrepareProposal");
        let refusal = app.process_proposal(&txs, height, Time(time)).expect("ProcessProposal");
        assert_eq!(refusal, None, "the proposal of height {height} is refused");
        let hash = blake3::hash(&[app.app_hash(), *blake3::hash(&height.to_be_bytes()).as_bytes()].concat());
        let [last, current, _] = consensus.sets.make_contiguous() else { panic!("three sets") };
        let votes = if height == 1 { Vec::new() } else { last.iter().map(vote).collect() };
        let request = RequestFinalizeBlock {
            txs: txs.clone().into_iter().collect(),
            decided_last_commit: Some(CommitInfo { round: 0, votes }),
            hash: hash.as_bytes().to_vec().into(),
            height: height as i64,
            time: Some(CometTimestamp { seconds: (time / 1_000_000_000) as i64, nanos: 0 }),
            proposer_address: current.keys().next().expect("a validator").as_bytes().to_vec().into(),
            ..Default::default()
        };
        let response = app.finalize_block(request).expect("FinalizeBlock");
        assert_eq!(response.tx_results.len(), txs.len());
        consensus.apply(&response.validator_updates);
        (consensus.height, consensus.time) = (height, Time(time));

        // As CometBFT does, nothing is checked while the state changes; what is left is checked again.
        let mut mempool = self.0.mempool.lock();
        app.commit().expect("Commit");
        let mut results: BTreeMap<Bytes, ExecTxResult> = txs.into_iter().zip(response.tx_results).collect();
        for (tx, sender) in std::mem::take(&mut mempool.waiting) {
            if let Some(result) = results.remove(&tx) {
                let _ = sender.send(Ok((height, result)));
                continue;
            }
            let check = app.check_tx(&tx, true).expect("CheckTx");
            match check.code {
                0 => mempool.waiting.push((tx, sender)),
                code => {
                    mempool.sequences.clear();
                    let _ = sender.send(Err(refused(&tx, 0, code, check.codespace, check.log, 0)));
                }
            }
        }
        if mempool.waiting.is_empty() {
            mempool.sequences.clear();
        }
        height
    }

    /// Signs a transaction and waits for its block; one that is refused or fails is an error.
    pub async fn send(&self, key: &SigningKey, messages: Vec<Any>, order: Order) -> Outcome {
        let answer = self.submit(key, messages, order)?;
        let (height, result) =
            answer.await.map_err(|_| ClientError::Input("the network is gone".into()))??;
        included(height, result)
    }

    /// As [`Network::send`] of one message.
    pub async fn tell<M: Name>(&self, key: &SigningKey, message: &M) -> Outcome {
        self.send(key, vec![Any::pack(message)], Order::Sequence).await
    }

    /// As [`Network::tell`], in a block that is made now, where nothing else makes blocks.
    pub fn deliver<M: Name>(&self, key: &SigningKey, message: &M) -> Outcome {
        let mut answer = self.submit(key, vec![Any::pack(message)], Order::Sequence)?;
        self.block();
        let (height, result) = answer.try_recv().expect("the block holds the transaction")?;
        included(height, result)
    }

    /// Puts a transaction into the mempool.
    fn submit(
        &self,
        key: &SigningKey,
        messages: Vec<Any>,
        order: Order,
    ) -> Result<oneshot::Receiver<Outcome>, ClientError> {
        let address = key.address();
        let mut mempool = self.0.mempool.lock();
        let info: QueryAccountInfoResponse =
            self.ask("account", 0, &QueryAccountInfoRequest { address: address.to_string() })?;
        let info = info.info.unwrap_or_default();
        let mut tx = TxBuilder::new().gas(TX_GAS);
        tx.body.messages = messages;
        let mut sequence = mempool.sequences.get(&address).copied().unwrap_or(info.sequence);
        if order == Order::Unordered {
            let now = self.0.app.latest_block().expect("the latest block").time.0 / 1_000_000_000;
            let nanos = self.0.nonce.fetch_add(1, Ordering::Relaxed) as i32;
            tx = tx.unordered(Timestamp { seconds: now as i64 + 60, nanos });
            sequence = 0;
        }
        let account_number = info.account_number;
        let bytes = tx.sign(key, &SignerData { chain_id: CHAIN_ID.into(), account_number, sequence });
        let receiver = self.check(&mut mempool, bytes.into())?;
        if order == Order::Sequence {
            mempool.sequences.insert(address, sequence + 1);
        }
        Ok(receiver)
    }

    /// Puts a transaction that is signed into the mempool.
    fn put(&self, tx: Bytes) -> Result<oneshot::Receiver<Outcome>, ClientError> {
        self.check(&mut self.0.mempool.lock(), tx)
    }

    fn check(&self, mempool: &mut Mempool, tx: Bytes) -> Result<oneshot::Receiver<Outcome>, ClientError> {
        let check = self.0.app.check_tx(&tx, false).expect("CheckTx");
        if check.code != 0 {
            return Err(refused(&tx, 0, check.code, check.codespace, check.log, 0));
        }
        let (sender, receiver) = oneshot::channel();
        mempool.waiting.push((tx, sender));
        Ok(receiver)
    }

    /// Asks the query that a request's type names (`QueryTaskRequest` is asked of `Query/Task`), at a height, or at the
    /// latest one for 0.
    pub fn ask<Q: Name, R: Message + Default>(
        &self,
        what: &'static str,
        height: u64,
        request: &Q,
    ) -> Result<R, ClientError> {
        let method = Q::NAME.trim_start_matches("Query").trim_end_matches("Request");
        let path = format!("/{}.Query/{method}", Q::PACKAGE);
        let (_, answer) = self
            .0
            .app
            .query(&path, height, &request.encode_to_vec())
            .map_err(|status| query_error(what, status))?;
        R::decode(&*answer).map_err(|e| ClientError::Input(format!("{path}: {e}")))
    }

    /// As [`Network::ask`], where "not found" is an answer.
    pub fn find<Q: Name, R: Message + Default>(
        &self,
        what: &'static str,
        height: u64,
        request: &Q,
    ) -> Result<Option<R>, ClientError> {
        match self.ask(what, height, request) {
            Err(ClientError::Query { code: tonic::Code::NotFound, .. }) => Ok(None),
            other => other.map(Some),
        }
    }
}

impl Consensus {
    /// Updates of a block hold two blocks later.
    fn apply(&mut self, updates: &[ValidatorUpdate]) {
        let mut next = self.sets.back().cloned().expect("three sets");
        for update in updates {
            let key = update.pub_key.as_ref().and_then(|key| key.sum.as_ref());
            let Some(Sum::Ed25519(key)) = key else {
                panic!("a validator without an ed25519 key: {update:?}")
            };
            let address = Address::from_ed25519(key.as_slice().try_into().expect("32 bytes"));
            let power = u64::try_from(update.power).expect("no negative power");
            let before = if power == 0 { next.remove(&address) } else { next.insert(address, power) };
            assert!(power > 0 || before.is_some(), "CometBFT stops when an unknown validator is removed");
        }
        assert!(!next.is_empty(), "CometBFT stops without validators");
        self.sets.pop_front();
        self.sets.push_back(next);
    }
}

fn vote((address, power): (&Address, &u64)) -> VoteInfo {
    let validator = CometValidator { address: address.as_bytes().to_vec().into(), power: *power as i64 };
    VoteInfo { validator: Some(validator), block_id_flag: BlockIdFlag::Commit.into() }
}

fn query_error(what: &'static str, status: Status) -> ClientError {
    let code = match status.code {
        Code::NotFound => tonic::Code::NotFound,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        other => tonic::Code::from_i32(other as i32),
    };
    ClientError::Query { what, code, message: status.message }
}

/// A transaction that failed in its block is an error.
fn included(height: u64, result: ExecTxResult) -> Outcome {
    match result.code {
        0 => Ok((height, result)),
        code => Err(refused(&[], height as i64, code, result.codespace, result.log, result.gas_wanted)),
    }
}

fn refused(
    tx: &[u8],
    height: i64,
    code: u32,
    codespace: String,
    log: String,
    gas_wanted: i64,
) -> ClientError {
    let hash = hex::encode_upper(deepnode_tx::hash(tx));
    ClientError::Transaction { hash, height, code, codespace, log, gas_wanted }
}

/// Blocks are made while this lives.
pub struct Blocks {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(|thread| thread.join());
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "making blocks failed");
        }
    }
}
