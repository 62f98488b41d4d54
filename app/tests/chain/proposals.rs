//! What a proposer makes of any mempool, everybody accepts; what breaks a rule, nobody does.

use bytes::Bytes;
use deepnode_app::Options;
use deepnode_core::Time;
use deepnode_proto::cosmos::bank::v1beta1::MsgSend;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::prost::encoding::encoded_len_varint;
use deepnode_tx::{SigningKey, Tx, TxBuilder};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::chain::{Chain, FEE, GAS};
use crate::traffic::Traffic;
use crate::world::{key, VALIDATORS};

const MAX_GAS: u64 = 30_000_000;

fn send(from: &SigningKey) -> TxBuilder {
    let (from_address, to_address) = (from.address().to_string(), key("user0").address().to_string());
    let amount = vec![Coin { denom: "udn".into(), amount: "1".into() }];
    TxBuilder::new().message(&MsgSend { from_address, to_address, amount }).fee(FEE, "udn").gas(GAS)
}

/// Bytes of transactions as a block holds them.
fn encoded(txs: &[Bytes]) -> u64 {
    txs.iter().map(|tx| 1 + encoded_len_varint(tx.len() as u64) as u64 + tx.len() as u64).sum()
}

fn gas(txs: &[Bytes]) -> u64 {
    txs.iter().map(|tx| Tx::decode(tx).unwrap().auth_info.fee.unwrap().gas_limit).sum()
}

struct Proposer {
    chain: Chain,
    traffic: Traffic,
    rng: ChaCha8Rng,
    _dir: tempfile::TempDir,
}

impl Proposer {
    /// A chain in the middle of things.
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut traffic = Traffic::new(seed);
        let (mut chain, _) = Chain::start(dir.path(), Options::default(), &traffic.world.genesis(VALIDATORS));
        for _ in 0..20 {
            traffic.step(&mut chain);
        }
        Proposer { chain, traffic, rng: ChaCha8Rng::seed_from_u64(seed), _dir: dir }
    }

    fn next(&self) -> (u64, Time) {
        (self.chain.height + 1, Time(self.chain.time + 1_000_000_000))
    }

    fn prepare(&self, mempool: &[Bytes], max_bytes: u64) -> Vec<Bytes> {
        let (height, time) = self.next();
        self.chain.app.prepare_proposal(mempool, height, time, max_bytes).unwrap()
    }

    fn refusal(&self, txs: &[Bytes]) -> Option<String> {
        let (height, time) = self.next();
        self.chain.app.process_proposal(txs, height, time).unwrap()
    }

    /// What a hostile network could put into a mempool.
    fn mempool(&mut self) -> Vec<Bytes> {
        let mut txs = Vec::new();
        for _ in 0..self.rng.gen_range(0..6) {
            txs.extend(self.traffic.transactions(&self.chain));
        }
        for _ in 0..self.rng.gen_range(0..20) {
            let user = self.rng.gen_range(0..8);
            let user = key(&format!("user{user}"));
            let mut tx = send(&user);
            match self.rng.gen_range(0..4) {
                0 => tx = tx.gas(self.rng.gen_range(1..2 * MAX_GAS)),
                1 => tx = tx.gas(u64::MAX),
                2 => {
                    tx = (0..self.rng.gen_range(0..300))
                        .fold(tx, |tx, _| tx.any(send(&user).body.messages[0].clone()))
                }
                _ => {}
            }
            txs.push(self.chain.sign(&user, tx));
        }
        for _ in 0..self.rng.gen_range(0..txs.len().max(2)) {
            let Some(tx) = txs.choose(&mut self.rng).cloned() else { break };
            let mut bytes = tx.to_vec();
            match self.rng.gen_range(0..5) {
                0 => bytes = (0..self.rng.gen_range(0..2_000)).map(|_| self.rng.gen()).collect(),
                1 => bytes.truncate(self.rng.gen_range(0..=tx.len())),
                2 => bytes.extend([0x12, 0x00]),
                3 => {
                    let at = self.rng.gen_range(0..bytes.len().max(1));
                    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x10);
                }
                _ => {}
            }
            txs.push(bytes.into());
        }
        txs.shuffle(&mut self.rng);
        txs
    }
}

#[test]
fn what_prepare_returns_process_accepts() {
    let mut proposer = Proposer::new(11);
    let (mut taken, mut left_out) = (0, 0);
    for round in 0..60 {
        let mempool = proposer.mempool();
        let max_bytes = match round % 4 {
            0 => proposer.rng.gen_range(0..3_000),
            _ => proposer.rng.gen_range(3_000..300_000),
        };
        let proposed = proposer.prepare(&mempool, max_bytes);
        assert_eq!(proposer.refusal(&proposed), None);
        assert!(encoded(&proposed) <= max_bytes.min(200_000) && gas(&proposed) <= MAX_GAS);
        // In the mempool's order, and nothing else.
        let mut rest = mempool.iter();
        assert!(proposed.iter().all(|tx| rest.any(|other| other == tx)));
        // A proposer that is asked for what it proposed leaves out nothing.
        assert_eq!(proposer.prepare(&proposed, max_bytes), proposed);
        taken += proposed.len();
        left_out += mempool.len() - proposed.len();
        // Executed, what everybody accepted passes ante: only messages may fail.
        if round % 10 == 9 {
            let response = proposer.chain.block(proposed);
            for result in &response.tx_results {
                assert!(result.code == 0 || result.gas_used > 0 && !result.events.is_empty(), "{result:?}");
            }
        }
    }
    assert!(taken > 500 && left_out > 500, "{taken} taken, {left_out} left out");
}

#[test]
fn what_breaks_a_rule_is_rejected() {
    let proposer = Proposer::new(12);
    let (one, other) = (key("user1"), key("user2"));
    let sign = |key: &SigningKey, tx: TxBuilder| proposer.chain.sign(key, tx);
    let good = sign(&one, send(&one));
    assert_eq!(proposer.refusal(&[good.clone(), sign(&other, send(&other))]), None);
    assert_eq!(proposer.refusal(&[]), None);

    let refused = |bad: Bytes, why: &str| {
        for txs in [vec![bad.clone()], vec![good.clone(), bad]] {
            let text =
                proposer.refusal(&txs).unwrap_or_else(|| panic!("accepted what should fail by {why:?}"));
            assert!(text.contains(why), "{text:?} should contain {why:?}");
        }
    };
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = sign(&other, send(&other)).to_vec();
        change(&mut bytes);
        Bytes::from(bytes)
    };
    refused(Bytes::new(), "tx bytes are empty: tx parse error");
    refused(Bytes::from_static(b"garbage"), "tx parse error");
    refused(changed(|bytes| bytes.truncate(bytes.len() - 3)), "tx parse error");
    refused(changed(|bytes| bytes.extend([0x22, 0])), "tx parse error");
    refused(changed(|bytes| *bytes.last_mut().unwrap() ^= 1), "code 4: signature verification failed");
    refused(sign(&other, send(&other).gas(MAX_GAS + 1)), "exceeds the block's bytes or gas");
    refused(sign(&other, send(&other).gas(0)), "code 41");
    refused(sign(&other, send(&other).gas(20_000)), "code 11");
    refused(sign(&other, send(&other).memo("m".repeat(257))), "code 12");
    refused(sign(&other, send(&other).timeout_height(proposer.chain.height)), "code 30");
    refused(sign(&other, send(&other).fee(u128::MAX / 4, "udn")), "code 10");
    refused(sign(&other, TxBuilder::new().message(&MsgSend::default()).gas(GAS)), "code 7");
    let unfunded = key("nobody");
    let data = proposer.chain.signer_data(&other.address()).unwrap();
    refused(send(&unfunded).sign(&unfunded, &data).into(), "code 9");

    // The same twice; a gap in the sequences; one too many for the gas and for the bytes of a block.
    assert!(proposer.refusal(&[good.clone(), good.clone()]).unwrap().contains("code 32"));
    let mut data = proposer.chain.signer_data(&one.address()).unwrap();
    let mut many = |gas: u64, memo: usize, count: usize| -> Vec<Bytes> {
        data.sequence = proposer.chain.signer_data(&one.address()).unwrap().sequence;
        let next = |_| {
            let tx = send(&one).gas(gas).memo("m".repeat(memo)).sign(&one, &data);
            data.sequence += 1;
            Bytes::from(tx)
        };
        (0..count).map(next).collect()
    };
    let full = many(MAX_GAS / 10, 0, 10);
    assert_eq!(proposer.refusal(&full), None);
    assert!(proposer.refusal(&full[1..]).unwrap().contains("code 32"));
    let beyond = many(MAX_GAS / 10, 0, 11);
    assert!(proposer.refusal(&beyond).unwrap().contains("transaction 10 exceeds the block's bytes or gas"));
    let large = many(GAS / 10, 250, 500);
    let fits = large.iter().scan(0, |sum, tx| {
        *sum += encoded(std::slice::from_ref(tx));
        Some(*sum)
    });
    let fits = fits.take_while(|bytes| *bytes <= 200_000).count();
    assert!(fits < large.len());
    assert!(proposer.refusal(&large).unwrap().contains(&format!("transaction {fits} exceeds")));
}
