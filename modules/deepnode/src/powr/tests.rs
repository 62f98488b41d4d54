use std::collections::BTreeMap;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;
use deepnode_core::block::Vote;
use deepnode_core::testing::TestState;
use deepnode_core::{Address, Dec, Event, Time};
use deepnode_cosmos::staking::StakingModule;
use deepnode_cosmos::{bank, staking};
use deepnode_proto::deepnode::powr::v1::{
    QueryTermsRequest, QueryTermsResponse, QueryWorkerScoreRequest, QueryWorkerScoreResponse,
};
use deepnode_proto::Message;
use proptest::prelude::*;

use super::math::powers::{powers, shares, Seat, TOTAL};
use super::updates::difference;
use super::*;
use crate::audits::{AuditWork, Conviction, FinalReceipt};
use crate::beacon::{self, BeaconModule};
use crate::models::ModelsModule;
use crate::reputation::{self, ReputationModule};
use crate::workers;

const DN: u128 = 1_000_000;
const EPOCH: u64 = 5;

fn op(n: u8) -> Address {
    Address([n; 20])
}

fn key(n: u8) -> [u8; 32] {
    [n; 32]
}

fn worker(n: u8) -> Address {
    Address([100 + n; 20])
}

struct Chain {
    state: TestState,
    /// What CometBFT has.
    comet: BTreeMap<[u8; 32], u64>,
    /// Validators that do not sign.
    absent: Vec<u8>,
    events: Vec<Event>,
}

impl Chain {
    /// Validators 1, 2, .. with these stakes in DN; worker n backs validator n. Epochs have 5 blocks, tau is 4.
    fn new(stakes: &[u128]) -> Chain {
        let mut state = TestState::new();
        state.block.time = Time(1_700_000_000_000_000_000);
        state.hooks = vec![&PowrHooks];
        let validators = (1u8..).zip(stakes).map(|(n, stake)| {
            serde_json::json!({
                "moniker": format!("v{n}"),
                "operator": op(n).to_string(),
                "consensus_pubkey": BASE64.encode(key(n)),
                "self_delegation": (stake * DN).to_string(),
                "commission_rate": "0.1",
            })
        });
        let mut section = StakingModule.default_genesis();
        section["genesis_validators"] = validators.collect();
        state
            .run(|cx| {
                (1..=20).try_for_each(|n| bank::mint_udn(cx, &op(n), 1_000_000 * DN))?;
                StakingModule.init_genesis(cx, &section)?;
                let clock = beacon::Params { blocks: EPOCH, max_duration: 1_000_000 };
                BeaconModule.init_genesis(cx, &serde_json::json!(beacon::genesis::Genesis::new(&clock)))?;
                ModelsModule.init_genesis(cx, &ModelsModule.default_genesis())?;
                ReputationModule.init_genesis(cx, &reputations())?;
                (1..=9).try_for_each(|n| back(cx, n, Some(op(n))))?;
                let params = Params { target_cu: 1_000_000, ..Params::localnet() };
                PowrModule.init_genesis(cx, &serde_json::json!(genesis::Genesis::new(params)))
            })
            .unwrap();
        let mut chain = Chain { state, comet: BTreeMap::new(), absent: Vec::new(), events: Vec::new() };
        chain.update();
        chain.begin();
        chain
    }

    fn update(&mut self) {
        let updates = self.state.run(validator_updates).unwrap();
        for ValidatorUpdate { consensus_key, power } in updates {
            match power {
                0 => assert!(
                    self.comet.remove(&consensus_key).is_some(),
                    "CometBFT refuses to remove a stranger"
                ),
                power => drop(self.comet.insert(consensus_key, power)),
            }
        }
        assert!(!self.comet.is_empty(), "CometBFT stops without validators");
    }

    fn begin(&mut self) {
        let votes = self.comet.iter().map(|(key, power)| Vote {
            validator: Address::from_ed25519(key),
            power: *power,
            signed: !self.absent.contains(&key[0]),
        });
        self.state.block.votes = votes.collect();
        self.state.block.hash = *blake3::hash(&self.state.block.height.to_le_bytes()).as_bytes();
        self.run(|cx| {
            BeaconModule.pre_block(cx)?;
            PowrModule.begin_block(cx)?;
            StakingModule.begin_block(cx)
        });
    }

    /// Ends the block, tells CometBFT, and begins the next.
    fn block(&mut self) {
        self.run(|cx| {
            StakingModule.end_block(cx)?;
            PowrModule.end_block(cx)
        });
        self.update();
        self.state.query(|cx| PowrModule.invariants(cx.state)).unwrap();
        let powers = self.state.query(|cx| staking::powers(cx.state)).unwrap();
        let expected: BTreeMap<[u8; 32], u64> =
            powers.iter().map(|(op, power)| (key(op.0[0]), *power)).collect();
        assert_eq!(self.comet, expected);
        self.state.block.height += 1;
        self.state.block.time = self.state.block.time.plus_secs(5);
        self.begin();
    }

    fn epochs(&mut self, n: u64) {
        let ends = self.number() + n;
        while self.number() < ends {
            self.block();
        }
    }

    fn number(&self) -> u64 {
        self.state.query(|cx| beacon::epoch(cx.state)).unwrap().number
    }

    fn run<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> T {
        let answer = self.state.run(f).unwrap();
        self.events.append(&mut self.state.events);
        answer
    }

    fn power(&self, n: u8) -> u64 {
        self.comet.get(&key(n)).copied().unwrap_or(0)
    }

    fn score(&self, n: u8) -> u128 {
        self.state.query(|cx| score(cx.state, &worker(n))).unwrap().value
    }

    fn work(&self, n: u8) -> u128 {
        self.state.query(|cx| standing(cx.state, &op(n))).unwrap().work
    }

    fn finish(&mut self, n: u8, cu: u64) {
        self.run(|cx| audits::push_final(cx, &receipt(n, cu)));
    }

    fn query<Q: Message, R: Message + Default>(&self, method: &str, request: Q) -> R {
        let mut queries = Queries::default();
        PowrModule.queries(&mut queries);
        let path = format!("/deepnode.powr.v1.Query/{method}");
        let bytes = self.state.query(|cx| queries.run(&path, cx, &request.encode_to_vec())).unwrap();
        R::decode(bytes.as_slice()).unwrap()
    }
}

/// A receipt of full credit.
fn receipt(n: u8, cu: u64) -> FinalReceipt {
    FinalReceipt {
        task: 1,
        worker: worker(n),
        class: "llm-300m".into(),
        cu,
        price: Dec::percent(1_400),
        scored: true,
        workers_in_draw: 9,
        validators_in_draw: 9,
        user_chosen: false,
    }
}

#[test]
fn stake_decides_at_genesis_and_work_moves_power_within_its_bounds() {
    let mut chain = Chain::new(&[40, 30, 20, 10]);
    let powers = [1, 2, 3, 4].map(|n| chain.power(n));
    assert_eq!(powers, [30_000_000, 30_000_000, 26_666_667, 13_333_333]);
    let mut before = powers;
    for _ in 0..6 {
        chain.finish(4, 50_000_000);
        chain.epochs(1);
        let now = [1, 2, 3, 4].map(|n| chain.power(n));
        assert_eq!(now.iter().sum::<u64>(), TOTAL);
        for (now, before) in now.iter().zip(before) {
            assert!(now.abs_diff(before) <= (before + TOTAL / 4) / 10, "{now} {before}");
        }
        before = now;
    }
    // All the work, a tenth of the stake: twice its share at most.
    assert_eq!(chain.power(4), 20_000_000);
    let rho = chain.query::<_, QueryTermsResponse>("Terms", QueryTermsRequest::default()).rho_ppm;
    assert_eq!(rho, 400_000);
}

#[test]
fn the_terms_are_what_the_powers_follow_from() {
    let mut chain = Chain::new(&[50, 40, 30, 20, 10]);
    for n in 1..=5 {
        chain.finish(n, 1_000 * u64::from(n));
    }
    chain.absent = vec![3];
    chain.epochs(2);
    let shown: QueryTermsResponse = chain.query("Terms", QueryTermsRequest::default());
    assert_eq!((shown.epoch, shown.terms.len()), (2, 5));
    let number = |text: &str| text.parse::<u128>().unwrap();
    let scores: Vec<u128> = shown.terms.iter().map(|t| number(&t.score)).collect();
    let stakes: Vec<u128> = shown.terms.iter().map(|t| number(&t.stake)).collect();
    let q = shares(&scores, &stakes, Dec::ppm(shown.terms[0].rho_ppm.into())).unwrap();
    let seats: Vec<Seat> = shown
        .terms
        .iter()
        .zip(&q)
        .map(|(t, q)| Seat {
            share: *q,
            old: t.old,
            stake: number(&t.stake),
            signed: t.signed * 10 >= t.due * 9,
        })
        .collect();
    let again = powers(&seats, stakes.iter().sum(), &Params::localnet().powers()).unwrap();
    for (n, (t, q)) in (1u8..).zip(shown.terms.iter().zip(q)) {
        assert_eq!((t.validator.as_str(), t.power), (op(n).to_string().as_str(), chain.power(n)));
        assert_eq!(t.power, again[usize::from(n) - 1]);
        assert_eq!(t.q.parse::<Dec>().unwrap().atomics(), q);
        let r: Dec = t.reputation.parse().unwrap();
        assert_eq!(number(&t.score), r.of(number(&t.work) + number(&t.audit_work)).unwrap());
        assert!(t.low <= t.power && t.power <= t.high && t.high <= t.collateral, "{t:?}");
        assert_eq!((t.due, t.signed), (EPOCH, if n == 3 { 0 } else { EPOCH }));
    }
    assert!(shown.terms[2].power <= shown.terms[2].old);
    let one: QueryTermsResponse = chain.query("Terms", QueryTermsRequest { validator: op(3).to_operator() });
    assert_eq!(one.terms, [shown.terms[2].clone()]);
}

#[test]
fn newcomers_enter_with_one_and_who_leaves_has_none_in_the_same_block() {
    let mut chain = Chain::new(&[100, 100, 100]);
    chain.block();
    chain.run(|cx| {
        let commission = staking::Commission {
            rate: Dec::ZERO,
            max_rate: Dec::ZERO,
            max_change_rate: Dec::ZERO,
            updated: cx.time(),
        };
        staking::create(cx, &op(4), key(4), staking::Description::default(), commission, 1, 100 * DN)
    });
    assert_eq!(chain.power(4), 0);
    chain.block();
    assert_eq!(chain.power(4), 1);
    chain.run(|cx| staking::jail(cx, &op(2)));
    chain.block();
    assert_eq!((chain.power(1), chain.power(2), chain.power(4)), (33_333_334, 0, 1));
    chain.epochs(1);
    // D (old + T / n), and the power of who left went to those who stayed.
    assert_eq!((chain.power(4), chain.comet.values().sum::<u64>()), (3_333_334, TOTAL));
    chain.epochs(20);
    let powers = [1, 3, 4].map(|n| chain.power(n));
    assert!(powers.iter().all(|power| power.abs_diff(TOTAL / 3) <= 1), "{powers:?}");
}

#[test]
fn the_last_validator_stays_whatever_happens() {
    let mut chain = Chain::new(&[100, 50]);
    chain.run(|cx| staking::jail(cx, &op(1)));
    chain.block();
    assert!(!chain.run(|cx| staking::jail(cx, &op(2))));
    chain.epochs(2);
    assert_eq!(chain.comet, BTreeMap::from([(key(2), TOTAL)]));
}

#[test]
fn scores_fade_follow_their_worker_and_fall_with_its_reputation() {
    let mut chain = Chain::new(&[100, 100, 100]);
    // c R / tau, in micro-CU.
    let gain = |chain: &Chain| {
        let r = chain.state.query(|cx| reputation::value(cx.state, &worker(1), "llm/llm-300m")).unwrap();
        r.of(1_000 * DN).unwrap()
    };
    let first = gain(&chain);
    assert!(first > 900 * DN);
    chain.finish(1, 4_000);
    chain.block();
    assert_eq!((chain.score(1), chain.work(1)), (first, first));
    chain.epochs(1);
    let faded = first * 3 / 4;
    assert_eq!((chain.score(1), chain.work(1)), (faded, faded));
    let shown: QueryWorkerScoreResponse =
        chain.query("WorkerScore", QueryWorkerScoreRequest { worker: worker(1).to_string() });
    assert_eq!((shown.score, shown.validator), (faded.to_string(), op(1).to_string()));

    chain.run(|cx| back(cx, 1, Some(op(2))));
    let moved = faded + gain(&chain);
    chain.finish(1, 4_000);
    chain.block();
    assert_eq!((chain.work(1), chain.work(2), chain.score(1)), (0, moved, moved));

    let (before, after) = (Dec::percent(80), Dec::percent(20));
    chain.run(|cx| audits::push_conviction(cx, &Conviction { worker: worker(1), before, after }));
    chain.block();
    assert_eq!((chain.score(1), chain.work(2)), (moved / 4, moved / 4));
    chain.run(|cx| audits::push_conviction(cx, &Conviction { worker: worker(1), before, after: Dec::ZERO }));
    chain.run(|cx| audits::push_audit_work(cx, &AuditWork { operator: op(3), cu: 1_600 }));
    chain.block();
    assert_eq!((chain.score(1), chain.work(2)), (0, 0));
    // A quarter of the CU, over tau.
    assert_eq!(chain.state.query(|cx| standing(cx.state, &op(3))).unwrap().audit_work, 100 * DN);
}

#[test]
fn little_competition_halves_the_credit_and_unlisted_models_have_none() {
    let mut chain = Chain::new(&[100]);
    let cases = [
        receipt(1, 4_000),
        FinalReceipt { workers_in_draw: 2, ..receipt(2, 4_000) },
        FinalReceipt { user_chosen: true, ..receipt(3, 4_000) },
        FinalReceipt { price: Dec::percent(700), ..receipt(4, 4_000) },
        FinalReceipt { scored: false, ..receipt(5, 4_000) },
    ];
    chain.run(|cx| cases.iter().try_for_each(|r| audits::push_final(cx, r)));
    chain.block();
    let full = chain.score(1);
    assert!(full > 0);
    assert_eq!([2, 3, 4, 5].map(|n| chain.score(n)), [full / 2, full / 2, full / 2, 0]);
}

#[test]
fn a_key_that_signed_twice_takes_its_work_with_it() {
    let mut chain = Chain::new(&[100, 100]);
    chain.finish(1, 4_000);
    chain.block();
    assert!(chain.work(1) > 0);
    chain.run(|cx| staking::tombstone(cx, &op(1)));
    chain.block();
    assert_eq!((chain.work(1), chain.power(1)), (0, 0));
}

#[test]
fn a_chain_goes_on_from_its_export() {
    let mut chain = Chain::new(&[40, 30, 20, 10]);
    chain.finish(4, 50_000);
    chain.epochs(3);
    chain.block();
    let exported = chain.state.query(|cx| PowrModule.export_genesis(cx.state)).unwrap();
    let mut next = TestState::new();
    (next.block, next.changes) = (chain.state.block.clone(), chain.state.changes.clone());
    next.hooks = chain.state.hooks.clone();
    next.run(|cx| PowrModule.init_genesis(cx, &exported)).unwrap();
    assert_eq!(next.query(|cx| PowrModule.export_genesis(cx.state)).unwrap(), exported);
    let powers = |state: &TestState| state.query(|cx| staking::powers(cx.state)).unwrap();
    assert_eq!(powers(&next), powers(&chain.state));
}

proptest! {
    /// Applied to what CometBFT has, the updates give what it should have: one entry a key, nothing that did not
    /// change, no removal of a stranger.
    #[test]
    fn updates_are_the_difference(
        sent in proptest::collection::btree_map(0u8..12, 1u64..4, 0..12),
        now in proptest::collection::btree_map(0u8..12, 1u64..4, 0..12),
    ) {
        let keyed = |powers: BTreeMap<u8, u64>| -> BTreeMap<[u8; 32], u64> {
            powers.into_iter().map(|(n, power)| (key(n), power)).collect()
        };
        let (mut comet, now) = (keyed(sent), keyed(now));
        let updates = difference(&comet, &now);
        prop_assert!(updates.is_sorted_by(|a, b| a.consensus_key < b.consensus_key));
        for update in updates {
            let had = comet.remove(&update.consensus_key);
            prop_assert!(had != Some(update.power) && (update.power > 0 || had.is_some()));
            if update.power > 0 {
                comet.insert(update.consensus_key, update.power);
            }
        }
        prop_assert_eq!(comet, now);
    }
}

/// What happens in a random chain.
#[derive(Clone, Debug)]
enum Op {
    Delegate(u8, u128),
    Undelegate(u8, u128),
    Create(u8),
    Jail(u8),
    Unjail(u8),
    Work(u8, u64),
    Absent(Vec<u8>),
    Blocks(u8),
}

fn op_strategy() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (1u8..8, 1u128..300).prop_map(|(n, dn)| Op::Delegate(n, dn)),
        2 => (1u8..8, 1u128..300).prop_map(|(n, dn)| Op::Undelegate(n, dn)),
        2 => (5u8..8).prop_map(Op::Create),
        2 => (1u8..8).prop_map(Op::Jail),
        2 => (1u8..8).prop_map(Op::Unjail),
        3 => (1u8..8, 1u64..1_000_000).prop_map(|(n, cu)| Op::Work(n, cu)),
        1 => proptest::collection::vec(1u8..8, 0..3).prop_map(Op::Absent),
        6 => (1u8..8).prop_map(Op::Blocks),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whoever comes, goes, works or sleeps: bonded means power in CometBFT's set, and the set is never empty
    /// (`Chain::block` checks both in every block).
    #[test]
    fn bonded_means_power(
        stakes in proptest::collection::vec(1u128..500, 1..5),
        ops in proptest::collection::vec(op_strategy(), 1..40),
    ) {
        let mut chain = Chain::new(&stakes);
        for step in ops {
            // What staking refuses does not happen.
            match step {
                Op::Delegate(n, dn) => drop(chain.state.run(|cx| staking::delegate(cx, &op(n), &op(n), dn * DN))),
                Op::Undelegate(n, dn) => drop(chain.state.run(|cx| staking::undelegate(cx, &op(n), &op(n), dn * DN))),
                Op::Create(n) => drop(chain.state.run(|cx| {
                    let commission = staking::Commission {
                        rate: Dec::ZERO,
                        max_rate: Dec::ZERO,
                        max_change_rate: Dec::ZERO,
                        updated: cx.time(),
                    };
                    staking::create(cx, &op(n), key(n), staking::Description::default(), commission, 1, 50 * DN)
                })),
                Op::Jail(n) => drop(chain.state.run(|cx| staking::jail(cx, &op(n)))),
                Op::Unjail(n) => drop(chain.state.run(|cx| staking::unjail(cx, &op(n)))),
                Op::Work(n, cu) => chain.finish(n, cu),
                Op::Absent(who) => chain.absent = who,
                Op::Blocks(n) => (0..n).for_each(|_| chain.block()),
            }
        }
        chain.epochs(2);
        let sum: u64 = chain.comet.values().sum();
        prop_assert!(sum.abs_diff(TOTAL) <= chain.comet.len() as u64, "{}", sum);
    }
}

/// Worker `n` backs this validator.
fn back(cx: &mut Ctx<'_>, n: u8, validator: Option<Address>) -> Result<()> {
    workers::place(cx, &worker(n), workers::Worker { validator, ..Default::default() }, &[])
}

/// Workers 1 to 9 have shown much in the class of the receipts: R is 0.99.
fn reputations() -> serde_json::Value {
    let mut section = ReputationModule.default_genesis();
    let record = |n: u8| {
        serde_json::json!({
            "subject": worker(n).to_string(),
            "capability": "llm/llm-300m",
            "passes": "50000000000",
            "soft": "0",
            "wrong": "0",
            "new_passes": "0",
            "new_late": "0",
            "new_unavailable": "0",
            "epoch": "0",
        })
    };
    section["records"] = (1..=9).map(record).collect();
    section
}
