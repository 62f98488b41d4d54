use deepnode_core::testing::TestState;
use deepnode_core::{Any, Coin, Event, Module, Time, UDN};
use deepnode_cosmos::auth::AuthModule;
use deepnode_cosmos::bank::{self, BankModule};
use deepnode_cosmos::consensus;
use deepnode_proto::cosmos::bank::v1beta1::{Input, MsgMultiSend, MsgSend};
use deepnode_proto::cosmos::base::v1beta1::Coin as ProtoCoin;
use deepnode_proto::cosmos::gov::v1::MsgVote;
use deepnode_proto::cosmos::tx::signing::v1beta1::SignMode;
use deepnode_proto::cosmos::tx::v1beta1::mode_info::{Single, Sum};
use deepnode_proto::cosmos::tx::v1beta1::{AuthInfo, TxRaw};
use deepnode_proto::Message;
use deepnode_tx::{SignerData, SigningKey, TxBuilder};

use super::*;

const RICH: u128 = 1_000_000_000;
/// 2026-01-01.
const NOW: u64 = 1_767_225_600_000_000_000;

struct Chain {
    state: TestState,
    messages: Messages,
    config: Config,
    cache: SignatureCache,
    /// Gas used by the last transaction.
    gas: u64,
}

impl Chain {
    /// Users 1 to 9 hold udn.
    fn new() -> Self {
        let mut chain = Chain {
            state: TestState::new(),
            messages: Messages::default(),
            config: Config::default(),
            cache: SignatureCache::new(),
            gas: 0,
        };
        chain.state.block.time = Time(NOW);
        BankModule.messages(chain.messages.begin("bank"));
        chain
            .state
            .run(|cx| {
                consensus::init_chain(cx, 1, 0, &consensus::Params::default())?;
                AuthModule.init_genesis(cx, &AuthModule.default_genesis())?;
                BankModule.init_genesis(cx, &BankModule.default_genesis())?;
                (1..10).try_for_each(|n| bank::mint_udn(cx, &user(n), RICH))
            })
            .unwrap();
        chain
    }

    fn run(&mut self, bytes: &[u8], mode: Mode) -> std::result::Result<AnteOk, String> {
        let tx = Tx::decode(bytes).unwrap();
        let ante = Ante { messages: &self.messages, config: &self.config, cache: &self.cache };
        let mut gas = 0;
        let result = self.state.run(|cx| {
            let result = run(ante, cx, &tx, mode);
            gas = cx.gas().used();
            result
        });
        self.gas = gas;
        result.map_err(|e| e.to_string())
    }

    fn deliver(&mut self, bytes: &[u8]) -> std::result::Result<AnteOk, String> {
        self.run(bytes, Mode::Deliver)
    }

    fn refused(&mut self, bytes: &[u8]) -> String {
        let before = self.state.changes.clone();
        let error = self.deliver(bytes).unwrap_err();
        assert_eq!(self.state.changes, before, "a refused transaction changes nothing");
        assert!(self.state.events.is_empty(), "a refused transaction emits nothing");
        error
    }

    fn data(&mut self, n: u8) -> SignerData {
        let account = self.state.run(|cx| auth::existing_account(cx, &user(n))).unwrap();
        let chain_id = self.state.block.chain_id.clone();
        SignerData { chain_id, account_number: account.number, sequence: account.sequence }
    }

    /// Signed by `n` with its account's data.
    fn sign(&mut self, tx: &TxBuilder, n: u8) -> Vec<u8> {
        let data = self.data(n);
        tx.sign(&key(n), &data)
    }

    fn held(&mut self, a: &Address) -> u128 {
        self.state.run(|cx| bank::balance_udn(cx, a)).unwrap()
    }
}

fn key(n: u8) -> SigningKey {
    SigningKey::new(&[n; 32]).unwrap()
}

fn user(n: u8) -> Address {
    key(n).address()
}

fn udn(amount: u128) -> Vec<ProtoCoin> {
    vec![Coin::udn(amount).to_proto()]
}

/// 1 udn from `from`, 500 udn fee.
fn send(from: u8) -> TxBuilder {
    let (from_address, to_address) = (user(from).to_string(), user(9).to_string());
    TxBuilder::new().message(&MsgSend { from_address, to_address, amount: udn(1) }).fee(500, UDN).gas(100_000)
}

fn until(ns: u64) -> deepnode_proto::Timestamp {
    Time(ns).to_proto()
}

/// The same transaction with another AuthInfo, signatures left as they are.
fn with_auth_info(bytes: &[u8], change: impl FnOnce(&mut AuthInfo)) -> Vec<u8> {
    let mut raw = TxRaw::decode(bytes).unwrap();
    let mut info = AuthInfo::decode(raw.auth_info_bytes.as_slice()).unwrap();
    change(&mut info);
    raw.auth_info_bytes = info.encode_to_vec();
    raw.encode_to_vec()
}

#[test]
fn a_good_transaction_pays_moves_the_sequence_and_tells_who_signed() {
    let mut chain = Chain::new();
    let bytes = chain.sign(&send(1), 1);
    let ok = chain.deliver(&bytes).unwrap();
    assert_eq!((ok.gas_wanted, ok.fee.to_string(), ok.fee_payer), (100_000, "500udn".into(), user(1)));
    assert_eq!(ok.signers, [user(1)]);
    assert_eq!(chain.held(&user(1)), RICH - 500);
    assert_eq!(chain.held(&Address::module("fee_collector")), 500);
    let account = chain.state.run(|cx| auth::existing_account(cx, &user(1))).unwrap();
    assert_eq!((account.sequence, account.key.unwrap().public_key().unwrap()), (1, key(1).public_key()));

    let bytes = chain.sign(&send(1), 1);
    chain.deliver(&bytes).unwrap();
    let events: Vec<&Event> = chain.state.events.iter().collect();
    let kinds: Vec<_> = events.iter().map(|e| e.kind).collect();
    assert_eq!(kinds, ["coin_spent", "coin_received", "transfer", "message", "tx", "tx", "tx"]);
    assert_eq!(events[4].attributes, [("fee", "500udn".into()), ("fee_payer", user(1).to_string())]);
    assert_eq!(events[5].attributes, [("acc_seq", format!("{}/1", user(1)))]);
    assert_eq!(events[6].attributes[0].0, "signature");
}

#[test]
fn a_send_stays_within_its_gas_budget_and_simulation_covers_it() {
    // As CosmJS (key, no signature, no fee), and as Keplr (zero signature, no key).
    let simulate = |chain: &mut Chain, n: u8, to: Address, keplr: bool| {
        let mut tx = send(n);
        tx.fee = Default::default();
        tx.body.messages.clear();
        let tx = tx.message(&message(n, to));
        let data = chain.data(n);
        let mut bytes = tx.simulation(&key(n).public_key(), data.sequence);
        if keplr {
            bytes = with_auth_info(&bytes, |info| {
                info.signer_infos[0].public_key = None;
                info.signer_infos[0].mode_info = Some(deepnode_proto::cosmos::tx::v1beta1::ModeInfo {
                    sum: Some(Sum::Single(Single { mode: SignMode::LegacyAminoJson.into() })),
                });
            });
            let mut raw = TxRaw::decode(bytes.as_slice()).unwrap();
            raw.signatures[0] = vec![0; 64];
            bytes = raw.encode_to_vec();
        }
        let before = chain.state.changes.clone();
        let gas = whole(chain, &bytes, Mode::Simulate);
        chain.state.changes = before;
        gas
    };
    fn message(n: u8, to: Address) -> MsgSend {
        MsgSend { from_address: user(n).to_string(), to_address: to.to_string(), amount: udn(1) }
    }
    fn whole(chain: &mut Chain, bytes: &[u8], mode: Mode) -> u64 {
        let tx = Tx::decode(bytes).unwrap();
        let ante = Ante { messages: &chain.messages, config: &chain.config, cache: &chain.cache };
        chain
            .state
            .run(|cx| {
                run(ante, cx, &tx, mode)?;
                for message in &tx.body.messages {
                    ante.messages.get(&message.type_url)?.run(cx, &message.value)?;
                }
                Ok(cx.gas().used())
            })
            .unwrap()
    }

    for (what, to) in [("known receiver", user(9)), ("new receiver", Address([7; 20]))] {
        for keplr in [false, true] {
            let mut chain = Chain::new();
            for round in ["first transaction", "second transaction"] {
                let simulated = simulate(&mut chain, 1, to, keplr);
                let mut tx = send(1);
                tx.body.messages = vec![deepnode_proto::AnyExt::pack(&message(1, to))];
                let bytes = chain.sign(&tx, 1);
                let used = whole(&mut chain, &bytes, Mode::Deliver);
                assert!(used < 80_000, "{what}, {round}: {used}");
                assert!(simulated >= used, "{what}, {round}: {used} used, {simulated} simulated");
                assert!(simulated * 10 <= used * 12, "{what}, {round}: {used} used, {simulated} simulated");
            }
        }
    }
}

#[test]
fn gas_limits() {
    let mut chain = Chain::new();
    let bytes = chain.sign(&send(1).gas(0), 1);
    assert_eq!(chain.refused(&bytes), "must provide positive gas: invalid gas limit");
    let bytes = chain.sign(&send(1).gas(100_000_001), 1);
    assert_eq!(
        chain.refused(&bytes),
        "tx gas limit 100000001 exceeds block max gas 100000000: invalid gas limit"
    );
    let bytes = chain.sign(&send(1).gas(10), 1);
    let error = chain.refused(&bytes);
    assert!(
        error.starts_with("out of gas in location: ReadFlat; gasWanted: 10, gasUsed: ")
            && error.ends_with(": out of gas"),
        "{error}"
    );
    assert!(chain.gas > 10);
    let bytes = chain.sign(&send(1).gas(0), 1);
    assert_eq!(chain.run(&bytes, Mode::Simulate).unwrap().gas_wanted, 0);
}

#[test]
fn basic_checks() {
    let mut chain = Chain::new();
    let mut empty = send(1);
    empty.body.messages.clear();
    let bytes = chain.sign(&empty, 1);
    assert_eq!(chain.refused(&bytes), "must contain at least one message: invalid request");

    let mut extended = send(1);
    extended.body.extension_options = extended.body.messages.clone();
    let bytes = chain.sign(&extended, 1);
    assert_eq!(chain.refused(&bytes), "/cosmos.bank.v1beta1.MsgSend: unknown extension options");
    let mut optional = send(1);
    optional.body.non_critical_extension_options = optional.body.messages.clone();
    let bytes = chain.sign(&optional, 1);
    chain.deliver(&bytes).unwrap();

    let good = chain.sign(&send(1), 1);
    let mut raw = TxRaw::decode(good.as_slice()).unwrap();
    raw.signatures.push(vec![1; 64]);
    assert_eq!(
        chain.refused(&raw.encode_to_vec()),
        "wrong number of signers; expected 1, got 2: unauthorized"
    );
    raw.signatures.clear();
    assert_eq!(chain.refused(&raw.encode_to_vec()), "no signatures supplied");
    let bytes = with_auth_info(&good, |info| info.signer_infos.clear());
    assert_eq!(chain.refused(&bytes), "wrong number of signers; expected 1, got 0: unauthorized");
    // A message of a module that is not composed here.
    let vote = MsgVote { voter: user(1).to_string(), ..Default::default() };
    let unknown = TxBuilder::new().message(&vote).fee(1, UDN).gas(100_000);
    let bytes = chain.sign(&unknown, 1);
    assert!(chain
        .refused(&bytes)
        .ends_with("no handler for message /cosmos.gov.v1.MsgVote: unknown request"));
}

#[test]
fn timeouts_are_the_last_height_and_the_last_time() {
    let mut chain = Chain::new();
    chain.state.block.height = 10;
    let bytes = chain.sign(&send(1).timeout_height(9), 1);
    assert_eq!(chain.refused(&bytes), "block height: 10, timeout height: 9: tx timeout height");
    let bytes = chain.sign(&send(1).timeout_height(10), 1);
    chain.deliver(&bytes).unwrap();
    let mut timed = send(1);
    timed.body.timeout_timestamp = Some(until(NOW - 1));
    let bytes = chain.sign(&timed, 1);
    assert!(chain.refused(&bytes).ends_with(": tx timeout"));
    timed.body.timeout_timestamp = Some(until(NOW));
    let bytes = chain.sign(&timed, 1);
    chain.deliver(&bytes).unwrap();
    timed.body.timeout_timestamp = Some(deepnode_proto::Timestamp { seconds: -1, nanos: 0 });
    let bytes = chain.sign(&timed, 1);
    assert!(chain.refused(&bytes).starts_with("timeout_timestamp of -1 s and 0 ns is outside"));
}

#[test]
fn memos_have_a_limit_and_bytes_a_price() {
    let mut chain = Chain::new();
    let bytes = chain.sign(&send(1).memo("m".repeat(257)), 1);
    assert_eq!(
        chain.refused(&bytes),
        "maximum number of characters is 256 but received 257 characters: memo too large"
    );
    // The first fee ever also opens the collector's balance.
    let bytes = chain.sign(&send(3), 3);
    chain.deliver(&bytes).unwrap();
    let bytes = chain.sign(&send(1), 1);
    chain.run(&bytes, Mode::Propose).unwrap();
    let without = chain.gas;
    let bytes = chain.sign(&send(2).memo("m".repeat(100)), 2);
    chain.run(&bytes, Mode::Propose).unwrap();
    // A hundred letters, and the memo's tag and length; a body above 127 bytes already has two bytes of length.
    assert_eq!(chain.gas - without, 10 * (100 + 2));
}

#[test]
fn fees() {
    let mut chain = Chain::new();
    chain.config.min_gas_prices = "0.01udn, 2abc".parse().unwrap();
    let check = |chain: &mut Chain, fee: u128, mode| {
        let mut tx = send(1);
        tx.fee.amount = udn(fee);
        let bytes = chain.sign(&tx, 1);
        let before = chain.state.changes.clone();
        let result = chain.run(&bytes, mode);
        chain.state.changes = before;
        result
    };
    for mode in [Mode::Check, Mode::Recheck] {
        assert_eq!(
            check(&mut chain, 999, mode).unwrap_err(),
            "insufficient fees; got: 999udn required: 200000abc,1000udn: insufficient fee"
        );
        check(&mut chain, 1_000, mode).unwrap();
    }
    for mode in [Mode::Propose, Mode::Deliver, Mode::Simulate] {
        check(&mut chain, 0, mode).unwrap();
    }
    assert_eq!(
        check(&mut chain, RICH + 1, Mode::Deliver).unwrap_err(),
        "spendable balance 1000000000udn is smaller than 1000000001udn: insufficient funds"
    );
    assert!("0.01".parse::<MinGasPrices>().is_err() && "-1udn".parse::<MinGasPrices>().is_err());
    assert!("1udn,2udn".parse::<MinGasPrices>().is_err());

    // Another payer signs too; a granter needs an allowance.
    let tx = send(1).fee_payer(user(2));
    let one = chain.data(1);
    let two = chain.data(2);
    let alone = tx.sign(&key(1), &one);
    assert_eq!(chain.refused(&alone), "wrong number of signers; expected 2, got 1: unauthorized");
    let both = tx.sign_all(&[(&key(1), one.clone()), (&key(2), two)]);
    let ok = chain.deliver(&both).unwrap();
    assert_eq!((ok.fee_payer, ok.signers), (user(2), vec![user(1), user(2)]));
    assert_eq!((chain.held(&user(1)), chain.held(&user(2))), (RICH, RICH - 500));
    let bytes = chain.sign(&send(1).fee_granter(user(3)), 1);
    let error = chain.refused(&bytes);
    assert!(error.contains("feegrant") && error.ends_with(": feature not supported"), "{error}");
}

#[test]
fn keys_belong_to_their_signers() {
    let mut chain = Chain::new();
    let data = chain.data(1);
    let bytes = send(1).sign(&key(2), &data);
    assert_eq!(
        chain.refused(&bytes),
        format!("pubKey does not match signer address {} with signer index: 0: invalid pubkey", user(1))
    );
    let good = chain.sign(&send(1), 1);
    let keyless = with_auth_info(&good, |info| info.signer_infos[0].public_key = None);
    assert_eq!(chain.refused(&keyless), "pubkey on account is not set: invalid pubkey");
    let stranger = SigningKey::new(&[77; 32]).unwrap();
    let message = MsgSend {
        from_address: stranger.address().to_string(),
        to_address: user(9).to_string(),
        amount: udn(1),
    };
    let tx = TxBuilder::new().message(&message).gas(100_000);
    let bytes = tx.sign(&stranger, &data);
    assert_eq!(
        chain.refused(&bytes),
        format!("fee payer address: {} does not exist: unknown address", stranger.address())
    );
}

#[test]
fn at_most_seven_sign() {
    let mut chain = Chain::new();
    let tx = |signers: u8| {
        (1..=signers).fold(TxBuilder::new().fee(1, UDN).gas(1_000_000), |tx, n| {
            tx.message(&MsgSend {
                from_address: user(n).to_string(),
                to_address: user(9).to_string(),
                amount: udn(1),
            })
        })
    };
    let sign = |chain: &mut Chain, signers: u8| {
        let keys: Vec<_> = (1..=signers).map(|n| (key(n), chain.data(n))).collect();
        tx(signers).sign_all(&keys.iter().map(|(k, d)| (k, d.clone())).collect::<Vec<_>>())
    };
    let bytes = sign(&mut chain, 8);
    assert_eq!(chain.refused(&bytes), "signatures: 8, limit: 7: maximum number of signatures exceeded");
    let bytes = sign(&mut chain, 7);
    chain.deliver(&bytes).unwrap();
    for n in 1..=7 {
        assert_eq!(chain.data(n).sequence, 1);
    }
}

#[test]
fn signatures_cover_chain_account_and_sequence() {
    let mut chain = Chain::new();
    let data = chain.data(1);
    let text = "signature verification failed; please verify account number (1), sequence (0) and chain-id (test-1): unauthorized";
    for wrong in [
        SignerData { chain_id: "test-2".into(), ..data.clone() },
        SignerData { account_number: 2, ..data.clone() },
    ] {
        assert_eq!(chain.refused(&send(1).sign(&key(1), &wrong)), text);
    }
    let ahead = SignerData { sequence: 3, ..data.clone() };
    assert_eq!(
        chain.refused(&send(1).sign(&key(1), &ahead)),
        "account sequence mismatch, expected 0, got 3: incorrect account sequence"
    );
    assert!(chain
        .run(&send(1).sign(&key(1), &ahead), Mode::Simulate)
        .unwrap_err()
        .contains("sequence mismatch"));
    // Whoever changes the fee on the way breaks the signature.
    let good = send(1).sign(&key(1), &data);
    let dearer = with_auth_info(&good, |info| info.fee.as_mut().unwrap().amount = udn(501));
    assert_eq!(chain.refused(&dearer), text);
    let mut raw = TxRaw::decode(good.as_slice()).unwrap();
    raw.signatures[0].pop();
    assert_eq!(chain.refused(&raw.encode_to_vec()), text);
    // Good once.
    chain.deliver(&good).unwrap();
    assert_eq!(
        chain.refused(&good),
        "account sequence mismatch, expected 1, got 0: incorrect account sequence"
    );
}

#[test]
fn a_signature_is_verified_once_and_the_cache_changes_nothing() {
    let mut chain = Chain::new();
    let bytes = chain.sign(&send(1), 1);
    let before = chain.state.changes.clone();
    let checked = chain.run(&bytes, Mode::Check).unwrap();
    let (gas, after) = (chain.gas, chain.state.changes.clone());
    assert_eq!(chain.cache.len(), 1);
    for mode in [Mode::Propose, Mode::Deliver] {
        chain.state.changes = before.clone();
        assert_eq!(chain.run(&bytes, mode).unwrap(), checked);
        assert_eq!((chain.gas, &chain.state.changes, chain.cache.len()), (gas, &after, 1));
    }
    // A cached signature does not carry over to another transaction, nor a bad one into the cache.
    let other = chain.sign(&send(1).memo("x"), 1);
    let mut raw = TxRaw::decode(other.as_slice()).unwrap();
    raw.signatures = TxRaw::decode(bytes.as_slice()).unwrap().signatures;
    assert!(chain.refused(&raw.encode_to_vec()).starts_with("signature verification failed"));
    assert_eq!(chain.cache.len(), 1);

    // Ahead of a block, on all cores: only what is good is remembered.
    let txs: Vec<Tx> = [other, raw.encode_to_vec()].iter().map(|b| Tx::decode(b).unwrap()).collect();
    let (messages, cache) = (&chain.messages, &chain.cache);
    chain.state.query(|q| verify_ahead(q.state, "test-1", messages, &txs, cache)).unwrap();
    assert_eq!(chain.cache.len(), 2);
}

#[test]
fn recheck_skips_signatures_but_not_sequences() {
    let mut chain = Chain::new();
    let good = chain.sign(&send(1), 1);
    let mut raw = TxRaw::decode(good.as_slice()).unwrap();
    raw.signatures[0] = vec![9; 64];
    chain.run(&raw.encode_to_vec(), Mode::Recheck).unwrap();
    assert!(chain.run(&good, Mode::Recheck).unwrap_err().contains("sequence mismatch, expected 1, got 0"));
}

#[test]
fn unordered_transactions_use_up_a_nonce_and_no_sequence() {
    let mut chain = Chain::new();
    let ordered = SignerData { sequence: 0, ..chain.data(1) };
    let sign = |tx: TxBuilder| tx.sign(&key(1), &ordered);
    let mut timeless = send(1);
    timeless.body.unordered = true;
    assert_eq!(
        chain.refused(&sign(timeless)),
        "unordered transaction must have timeout_timestamp set: invalid request"
    );
    let minutes = |n: u64| NOW + n * 60_000_000_000;
    assert_eq!(
        chain.refused(&sign(send(1).unordered(until(minutes(10) + 1)))),
        "unordered tx ttl exceeds 10m0s: invalid request"
    );
    assert!(chain.refused(&sign(send(1).unordered(until(NOW - 1)))).ends_with(": tx timeout"));
    let first = sign(send(1).unordered(until(minutes(10))));
    chain.deliver(&first).unwrap();
    assert_eq!(chain.data(1).sequence, 0);
    assert_eq!(
        chain.refused(&first),
        format!("already used timeout {} for address {}: invalid request", minutes(10), user(1))
    );
    chain.deliver(&sign(send(1).unordered(until(minutes(10) - 1)))).unwrap();
    // The nonce is the signer's own.
    let two = SignerData { sequence: 0, ..chain.data(2) };
    chain.deliver(&send(2).unordered(until(minutes(10))).sign(&key(2), &two)).unwrap();
    let numbered = SignerData { sequence: 1, ..ordered.clone() };
    assert_eq!(
        chain.refused(&send(1).unordered(until(minutes(5))).sign(&key(1), &numbered)),
        "sequence is not allowed for unordered transactions: invalid request"
    );
    // Once the nonce has expired, so has the transaction.
    chain.state.block.time = Time(minutes(10) + 1);
    chain.state.run(|cx| AuthModule.pre_block(cx)).unwrap();
    assert!(chain.refused(&first).ends_with(": tx timeout"));
}

#[test]
fn an_input_signs_and_each_signer_once() {
    let mut chain = Chain::new();
    let input = |n| Input { address: user(n).to_string(), coins: udn(1) };
    let tx = TxBuilder::new()
        .any(<Any as deepnode_proto::AnyExt>::pack(&MsgMultiSend {
            inputs: vec![input(2), input(1), input(2)],
            outputs: vec![],
        }))
        .message(&MsgSend {
            from_address: user(1).to_string(),
            to_address: user(9).to_string(),
            amount: udn(1),
        })
        .fee(1, UDN)
        .gas(200_000);
    let (one, two) = (chain.data(1), chain.data(2));
    let bytes = tx.sign_all(&[(&key(2), two), (&key(1), one)]);
    let ok = chain.deliver(&bytes).unwrap();
    assert_eq!((ok.signers, ok.fee_payer), (vec![user(2), user(1)], user(2)));
}
