//! A scripted chain, pinned: what every kind of message costs and answers, what is refused and in which words, what
//! lies in the state, and the app hashes. A changed snapshot is a breaking change of the chain.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use deepnode_app::{Options, STORES};
use deepnode_proto::tendermint_proto::v0_38::abci::{ExecTxResult, ValidatorUpdate};
use deepnode_proto::{Any, AnyExt, Message, Name};
use deepnode_store::{KvRead, Range};
use deepnode_tx::{SigningKey, TxBuilder};

use crate::chain::{Chain, FEE, GAS};
use crate::traffic::Seen;
use crate::world::{World, VALIDATORS};

mod refusals;
mod script;

/// The chain with what it said so far.
struct Story {
    chain: Chain,
    world: World,
    seen: Seen,
    /// A line a transaction.
    told: String,
    /// A line a block in which something of it changed.
    updates: String,
    hashes: String,
    _dir: tempfile::TempDir,
}

impl Story {
    fn begin() -> (Self, String) {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new();
        let mut genesis = world.genesis(VALIDATORS);
        // Room for one transaction a block; every receipt of who has no reputation is audited.
        for (module, name) in
            [("audits", "phase_blocks"), ("audits", "missing_blocks"), ("tasks", "accept_blocks")]
        {
            genesis[module]["params"][name] = "12".into();
        }
        genesis["tasks"]["params"]["min_deadline"] = "20".into();
        let (chain, response) = Chain::start(dir.path(), Options::default(), &genesis);
        let mut text = format!("app hash {}\n", hex::encode(&response.app_hash));
        response.validators.iter().for_each(|update| tell_update(&mut text, update));
        write!(text, "{:#?}", response.consensus_params.unwrap()).unwrap();
        let story = Story {
            chain,
            world,
            seen: Seen::default(),
            told: String::new(),
            updates: String::new(),
            hashes: String::new(),
            _dir: dir,
        };
        (story, text)
    }

    /// A block with these transactions.
    fn block(&mut self, txs: Vec<Bytes>) -> Vec<ExecTxResult> {
        let plan = crate::chain::Plan { txs, passed: 1_000_000_000, ..Default::default() };
        let request = self.chain.request(plan);
        let response = self.chain.execute(request.clone());
        let height = self.chain.height;
        self.seen.observe(height, &request, &response);
        if !response.validator_updates.is_empty() {
            writeln!(self.updates, "height {height}").unwrap();
            response.validator_updates.iter().for_each(|update| tell_update(&mut self.updates, update));
        }
        if height == 1 || height.is_multiple_of(10) {
            writeln!(self.hashes, "{height} {}", hex::encode(&response.app_hash)).unwrap();
        }
        self.chain.app.invariants().unwrap();
        response.tx_results
    }

    fn blocks(&mut self, count: usize) {
        (0..count).for_each(|_| drop(self.block(Vec::new())));
    }

    /// A block with one transaction, whatever becomes of it.
    fn send(&mut self, name: &str, tx: Bytes) -> ExecTxResult {
        let result = self.block(vec![tx]).remove(0);
        let ExecTxResult { code, codespace, log, data, gas_used, gas_wanted, .. } = &result;
        let outcome = if *code == 0 { "ok".into() } else { format!("{codespace} {code}") };
        writeln!(self.told, "{name}: {outcome}, gas {gas_used} of {gas_wanted}").unwrap();
        if *code == 0 {
            writeln!(self.told, "    data {}", hex::encode(data)).unwrap();
        } else {
            assert!(data.is_empty());
            writeln!(self.told, "    log {log}").unwrap();
        }
        result
    }

    /// A message that must succeed; its name stands for the transaction.
    fn good<M: Message + Name>(&mut self, signer: &SigningKey, message: M) -> ExecTxResult {
        let tx = self.chain.sign(signer, of(&message));
        let result = self.send(&M::type_url(), tx);
        assert_eq!(result.code, 0, "{}: {}", M::type_url(), result.log);
        result
    }

    /// One that must be refused.
    fn bad<M: Message + Name>(&mut self, what: &str, signer: &SigningKey, message: M) {
        let tx = self.chain.sign(signer, of(&message));
        let result = self.send(what, tx);
        assert_ne!(result.code, 0, "{what} was not refused");
    }
}

fn of<M: Message + Name>(message: &M) -> TxBuilder {
    TxBuilder::new().any(Any::pack(message)).fee(FEE, "udn").gas(GAS)
}

fn tell_update(text: &mut String, update: &ValidatorUpdate) {
    use deepnode_proto::tendermint_proto::v0_38::crypto::public_key::Sum;
    let Some(Sum::Ed25519(key)) = update.pub_key.as_ref().and_then(|key| key.sum.clone()) else { panic!() };
    writeln!(text, "    {} {}", hex::encode(key), update.power).unwrap();
}

/// Entries of each collection: how many, BLAKE3 of all, and the first one as it is stored.
fn dump(chain: &Chain) -> String {
    let state = chain.state();
    let mut text = String::new();
    for store in STORES {
        let mut collections: BTreeMap<u8, (usize, blake3::Hasher, String)> = BTreeMap::new();
        for entry in state.scan(store, Range::prefix(Vec::new())) {
            let (key, value) = entry.unwrap();
            let (count, hasher, first) = collections.entry(key[0]).or_default();
            *count += 1;
            for part in [&key, &value] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
            if first.is_empty() {
                *first = format!("{} = {}", hex::encode(&key), hex::encode(&value));
            }
        }
        for (prefix, (count, hasher, first)) in collections {
            let digest = hasher.finalize().to_hex();
            writeln!(text, "{store} {prefix:#04x}: {count}, {}\n    {first}", &digest[..16]).unwrap();
        }
    }
    text
}

#[test]
fn a_scripted_chain() {
    let (mut story, genesis) = Story::begin();
    insta::assert_snapshot!("genesis", genesis);
    script::tell(&mut story);
    refusals::tell(&mut story);
    let modules = deepnode_app::Modules::new();
    let missing: Vec<_> = modules
        .messages
        .type_urls()
        .filter(|url| !script::by_governance(url) && !story.seen.messages.contains_key(*url))
        .collect();
    assert!(missing.is_empty(), "no good transaction of {missing:?}");
    insta::assert_snapshot!("transactions", story.told);
    insta::assert_snapshot!("validator_updates", story.updates);
    insta::assert_snapshot!("state", dump(&story.chain));
    insta::assert_snapshot!("app_hashes", story.hashes);
}
