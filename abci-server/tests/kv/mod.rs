//! The smallest application that CometBFT can be tested with: it keeps the transactions it was given, in order.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use deepnode_abci_server::abci::{Fault, Prefetch};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tendermint_abci::Application;
use tendermint_proto::v0_38::abci::*;

#[derive(Clone)]
pub struct Kv {
    file: Arc<PathBuf>,
    state: Arc<Mutex<State>>,
    /// What FinalizeBlock finds broken from now on.
    pub broken: Arc<Mutex<Option<String>>>,
    /// Transactions that were announced before they were checked.
    pub prefetched: Arc<Mutex<usize>>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Committed {
    height: i64,
    hash: Vec<u8>,
    txs: Vec<Vec<u8>>,
}

struct State {
    committed: Committed,
    pending: Option<Committed>,
}

impl Kv {
    /// Goes on with what `file` holds.
    pub fn load(file: PathBuf) -> Self {
        let committed = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).expect("state file"),
            Err(_) => Committed::default(),
        };
        Self {
            file: Arc::new(file),
            state: Arc::new(Mutex::new(State { committed, pending: None })),
            broken: Arc::default(),
            prefetched: Arc::default(),
        }
    }

    pub fn height(&self) -> u64 {
        self.state.lock().committed.height as u64
    }

    /// All transactions of all committed blocks, in order.
    pub fn txs(&self) -> Vec<Vec<u8>> {
        self.state.lock().committed.txs.clone()
    }
}

impl Prefetch for Kv {
    fn prefetch(&self, txs: &[Bytes]) {
        *self.prefetched.lock() += txs.len();
    }
}

impl Application for Kv {
    fn info(&self, _: RequestInfo) -> ResponseInfo {
        let state = self.state.lock();
        ResponseInfo {
            last_block_height: state.committed.height,
            last_block_app_hash: state.committed.hash.clone().into(),
            ..Default::default()
        }
    }

    fn query(&self, request: RequestQuery) -> ResponseQuery {
        ResponseQuery { log: request.path, height: self.height() as i64, ..Default::default() }
    }

    fn check_tx(&self, request: RequestCheckTx) -> ResponseCheckTx {
        let code = u32::from(request.tx.starts_with(b"bad"));
        ResponseCheckTx { code, gas_wanted: 1, ..Default::default() }
    }

    fn finalize_block(&self, request: RequestFinalizeBlock) -> ResponseFinalizeBlock {
        if let Some(what) = &*self.broken.lock() {
            Fault::new(format!("{what} at height {}", request.height)).raise();
        }
        let mut state = self.state.lock();
        let mut next = state.committed.clone();
        assert_eq!(request.height, next.height + 1, "every height is committed once");
        next.height = request.height;
        let mut hash = Sha256::new_with_prefix(&next.hash);
        request.txs.iter().for_each(|tx| hash.update(Sha256::digest(tx)));
        next.hash = hash.finalize().to_vec();
        next.txs.extend(request.txs.iter().map(|tx| tx.to_vec()));
        let app_hash = next.hash.clone().into();
        state.pending = Some(next);
        let result = |tx: &Bytes| ExecTxResult {
            data: tx.clone(),
            events: vec![Event {
                r#type: "kv".into(),
                attributes: vec![EventAttribute {
                    key: "tx".into(),
                    value: String::from_utf8_lossy(tx).into_owned(),
                    index: true,
                }],
            }],
            ..Default::default()
        };
        ResponseFinalizeBlock {
            tx_results: request.txs.iter().map(result).collect(),
            app_hash,
            ..Default::default()
        }
    }

    fn commit(&self) -> ResponseCommit {
        let mut state = self.state.lock();
        state.committed = state.pending.take().expect("FinalizeBlock comes before Commit");
        let new = self.file.with_extension("new");
        let bytes = serde_json::to_vec(&state.committed).expect("state");
        fs::write(&new, bytes).and_then(|()| fs::rename(&new, &*self.file)).expect("state file");
        ResponseCommit { retain_height: 0 }
    }
}
