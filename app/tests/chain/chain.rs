//! A chain of one node: the application, and as much of CometBFT as it notices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use deepnode_app::{App, Options};
use deepnode_core::Time;
use deepnode_cosmos::auth;
use deepnode_proto::tendermint_proto::google::protobuf::Timestamp;
use deepnode_proto::tendermint_proto::v0_38::abci::*;
use deepnode_proto::tendermint_proto::v0_38::crypto::public_key::Sum;
use deepnode_proto::tendermint_proto::v0_38::types::BlockIdFlag;
use deepnode_proto::{Message, Name};
use deepnode_store::Snapshot;
use deepnode_tx::{Address, SignerData, SigningKey, TxBuilder};
use sha2::{Digest, Sha256};

pub const CHAIN_ID: &str = "chain-1";
/// 2026-01-01.
pub const START: u64 = 1_767_225_600_000_000_000;
pub const DN: u128 = 1_000_000;
/// More than any of the tests' transactions needs.
pub const GAS: u64 = 600_000;
pub const FEE: u128 = 1_000;

/// Powers by consensus key (ed25519), as CometBFT has them.
pub type ValidatorSet = BTreeMap<[u8; 32], i64>;

/// What is known of a block before it is one.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub txs: Vec<Bytes>,
    /// Nanoseconds since the last block.
    pub passed: u64,
    /// Consensus keys that do not sign the block before.
    pub absent: BTreeSet<[u8; 32]>,
    pub misbehavior: Vec<Misbehavior>,
}

/// An application with its validator sets.
pub struct Chain {
    pub app: App,
    pub height: u64,
    pub time: u64,
    /// By the height that they sign.
    sets: BTreeMap<u64, ValidatorSet>,
}

impl Chain {
    /// A chain that has genesis and no block.
    pub fn start(dir: &Path, options: Options, genesis: &serde_json::Value) -> (Self, ResponseInitChain) {
        let app = App::open(dir, options, &mut |_| {}).unwrap();
        let response = app.init_chain(init_chain(genesis)).unwrap();
        let mut set = ValidatorSet::new();
        apply(&mut set, &response.validators);
        let sets = BTreeMap::from([(1, set.clone()), (2, set)]);
        (Chain { app, height: 0, time: START, sets }, response)
    }

    /// The set that signs a block.
    pub fn set(&self, height: u64) -> &ValidatorSet {
        &self.sets[&height]
    }

    /// The next block as CometBFT hands it over.
    pub fn request(&self, plan: Plan) -> RequestFinalizeBlock {
        let (height, time) = (self.height + 1, self.time + plan.passed);
        let votes = match self.height {
            0 => Vec::new(),
            last => self
                .set(last)
                .iter()
                .map(|(key, power)| vote(key, *power, plan.absent.contains(key)))
                .collect(),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&height.to_le_bytes()).update(&time.to_le_bytes());
        for tx in &plan.txs {
            hasher.update(tx);
        }
        let proposer = self.set(height).keys().nth(height as usize % self.set(height).len()).unwrap();
        RequestFinalizeBlock {
            txs: plan.txs,
            decided_last_commit: Some(CommitInfo { round: 0, votes }),
            misbehavior: plan.misbehavior,
            hash: hasher.finalize().as_bytes().to_vec().into(),
            height: height as i64,
            time: Some(timestamp(time)),
            next_validators_hash: Bytes::new(),
            proposer_address: consensus_address(proposer).to_vec().into(),
        }
    }

    /// Executes and commits a block, and holds the answer against what CometBFT stops on.
    pub fn execute(&mut self, request: RequestFinalizeBlock) -> ResponseFinalizeBlock {
        let (height, txs) = (request.height as u64, request.txs.len());
        let time = request.time.as_ref().unwrap();
        self.time = time.seconds as u64 * 1_000_000_000 + time.nanos as u64;
        let response = self.app.finalize_block(request).unwrap();
        assert_eq!(response.tx_results.len(), txs, "one result a transaction");
        let mut set = self.set(height + 1).clone();
        apply(&mut set, &response.validator_updates);
        self.sets.insert(height + 2, set);
        self.app.commit().unwrap();
        assert_eq!(self.app.app_hash().as_slice(), response.app_hash.as_ref());
        self.height = height;
        response
    }

    /// A block of transactions, a second after the last.
    pub fn block(&mut self, txs: Vec<Bytes>) -> ResponseFinalizeBlock {
        self.execute(self.request(Plan { txs, passed: 1_000_000_000, ..Plan::default() }))
    }

    pub fn state(&self) -> Snapshot {
        self.app.state()
    }

    /// Answers a gRPC query.
    pub fn ask<Q: Message + Name, A: Message + Default>(&self, method: &str, request: &Q) -> A {
        let path = format!("/{}.Query/{method}", Q::PACKAGE);
        let (_, answer) = self.app.query(&path, 0, &request.encode_to_vec()).unwrap();
        A::decode(answer.as_slice()).unwrap()
    }

    /// Number and sequence of an account; none if it has none yet.
    pub fn signer_data(&self, address: &Address) -> Option<SignerData> {
        let account = auth::account(&self.state(), address).unwrap()?;
        Some(SignerData {
            chain_id: CHAIN_ID.into(),
            account_number: account.number,
            sequence: account.sequence,
        })
    }

    /// Signed by one account as its next transaction.
    pub fn sign(&self, key: &SigningKey, tx: TxBuilder) -> Bytes {
        tx.sign(key, &self.signer_data(&key.address()).unwrap()).into()
    }
}

/// The request that starts the chain.
pub fn init_chain(genesis: &serde_json::Value) -> RequestInitChain {
    use deepnode_proto::tendermint_proto::google::protobuf::Duration;
    use deepnode_proto::tendermint_proto::v0_38::types::*;
    RequestInitChain {
        time: Some(timestamp(START)),
        chain_id: CHAIN_ID.into(),
        initial_height: 1,
        app_state_bytes: genesis.to_string().into_bytes().into(),
        consensus_params: Some(ConsensusParams {
            block: Some(BlockParams { max_bytes: 200_000, max_gas: 30_000_000 }),
            evidence: Some(EvidenceParams {
                max_age_num_blocks: 20,
                max_age_duration: Some(Duration { seconds: 60, nanos: 0 }),
                max_bytes: 10_000,
            }),
            validator: Some(ValidatorParams { pub_key_types: vec!["ed25519".into()] }),
            version: None,
            abci: None,
        }),
        ..RequestInitChain::default()
    }
}

/// Applies updates as CometBFT does: it stops on a key named twice, on the removal of one that is not there, on a
/// negative power, and on an empty set.
fn apply(set: &mut ValidatorSet, updates: &[ValidatorUpdate]) {
    let mut seen = BTreeSet::new();
    for update in updates {
        let Some(Sum::Ed25519(key)) = update.pub_key.as_ref().and_then(|key| key.sum.clone()) else {
            panic!("an update without an ed25519 key: {update:?}");
        };
        let key: [u8; 32] = key.as_slice().try_into().unwrap();
        assert!(seen.insert(key), "two updates of one key");
        assert!(update.power >= 0);
        match update.power {
            0 => assert!(set.remove(&key).is_some(), "removal of a key that is not in the set"),
            power => drop(set.insert(key, power)),
        }
    }
    assert!(!set.is_empty(), "an empty validator set");
    assert!(set.values().sum::<i64>() <= i64::MAX / 8, "CometBFT's greatest total power");
}

fn vote(key: &[u8; 32], power: i64, absent: bool) -> VoteInfo {
    let flag = if absent { BlockIdFlag::Absent } else { BlockIdFlag::Commit };
    VoteInfo {
        validator: Some(Validator { address: consensus_address(key).to_vec().into(), power }),
        block_id_flag: flag.into(),
    }
}

/// The address that CometBFT calls a validator by.
pub fn consensus_address(key: &[u8; 32]) -> [u8; 20] {
    Sha256::digest(key)[..20].try_into().unwrap()
}

pub fn timestamp(ns: u64) -> Timestamp {
    let time = Time(ns).to_proto();
    Timestamp { seconds: time.seconds, nanos: time.nanos }
}

/// An event with its attributes by name.
pub type Attributes<'a> = BTreeMap<&'a str, &'a str>;

/// All events of a block that took effect, with what they say.
pub fn events(response: &ResponseFinalizeBlock) -> impl Iterator<Item = (&str, Attributes<'_>)> {
    let of_txs = response.tx_results.iter().flat_map(|result| &result.events);
    response.events.iter().chain(of_txs).map(|event| {
        let attributes = event.attributes.iter().map(|a| (a.key.as_str(), a.value.as_str())).collect();
        (event.r#type.as_str(), attributes)
    })
}
