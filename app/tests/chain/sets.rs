//! Validator sets: what must hold of them and of the coins after every block, and sets of one to four.

use std::collections::BTreeMap;

use deepnode_app::Options;
use deepnode_core::{Address, Dec};
use deepnode_cosmos::{bank, staking};
use deepnode_modules::powr::math::powers::{cap, TOTAL};
use deepnode_modules::{reputation, tasks};
use deepnode_proto::tendermint_proto::v0_38::abci::{Misbehavior, MisbehaviorType, Validator};
use deepnode_store::KvRead;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::chain::{consensus_address, timestamp, Chain, Plan, ValidatorSet};
use crate::traffic::Traffic;
use crate::world::{consensus_key, World};

/// What holds between blocks, counted here once more and in another way than the modules' own invariants do.
pub fn check(chain: &Chain) {
    let state = chain.state();
    let udn = |name: &str| bank::balance_udn(&state, &Address::module(name)).unwrap();

    // CometBFT's next set is those who are bonded and not jailed, with their powers.
    let mut members = ValidatorSet::new();
    let (mut bonded, mut others) = (0, 0);
    for (operator, power) in staking::powers(&state).unwrap() {
        let validator = staking::validator(&state, &operator).unwrap().unwrap();
        members.insert(validator.consensus_key, power as i64);
        assert!(validator.is_bonded() && !validator.jailed && power > 0);
        assert!(!staking::tombstoned(&state, &validator.consensus()).unwrap());
    }
    if !members.is_empty() {
        assert_eq!(*chain.set(chain.height + 2), members, "height {}", chain.height);
    }
    for (operator, tokens) in staking::bonded(&state).unwrap() {
        bonded += tokens;
        let duty = reputation::duty(&state, &operator).unwrap();
        assert!(duty <= Dec::ONE);
    }
    assert_eq!(udn(staking::BONDED_POOL), bonded);

    if !chain.height.is_multiple_of(10) {
        return;
    }
    let genesis = chain.app.export().unwrap();
    let mut supply = 0;
    for account in genesis["bank"]["balances"].as_array().unwrap() {
        for coin in account["coins"].as_array().unwrap() {
            assert_eq!(coin["denom"], "udn");
            supply += coin["amount"].as_str().unwrap().parse::<u128>().unwrap();
        }
    }
    assert_eq!(bank::supply(&state, "udn").unwrap(), supply);
    for validator in genesis["staking"]["validators"].as_array().unwrap() {
        if validator["status"] != "BOND_STATUS_BONDED" {
            others += validator["tokens"].as_str().unwrap().parse::<u128>().unwrap();
        }
    }
    for unbonding in genesis["staking"]["unbonding_delegations"].as_array().unwrap() {
        for entry in unbonding["entries"].as_array().unwrap() {
            others += entry["balance"].as_str().unwrap().parse::<u128>().unwrap();
        }
    }
    assert_eq!(udn(staking::NOT_BONDED_POOL), others);
    let mut escrow = 0;
    let mut id = 1;
    while let Some(task) = tasks::get(&state, id).unwrap() {
        escrow += if task.status.is_open() { task.escrow } else { 0 };
        assert!(task.status.is_open() || task.escrow == 0);
        id += 1;
    }
    assert_eq!(udn("tasks"), escrow);
}

/// CometBFT names no power above 0 that the chain forgot, and none that it made up: from the first block to the last
/// validator, for the smallest sets.
#[test]
fn sets_of_one_to_four_validators() {
    for n in 1..=4usize {
        let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
        let dir = tempfile::tempdir().unwrap();
        let world = World::new();
        let (mut chain, genesis) = Chain::start(dir.path(), Options::default(), &world.genesis(n));
        let powers: Vec<i64> = genesis.validators.iter().map(|update| update.power).collect();
        assert_eq!((powers.len(), powers.iter().sum::<i64>()), (n, TOTAL as i64));
        assert!(powers.iter().all(|power| *power <= cap(n) as i64), "{powers:?}");
        let mut before = chain.set(1).clone();
        for _ in 0..25 {
            let absent =
                chain.set(chain.height.max(1)).keys().filter(|_| rng.gen_bool(0.3)).copied().collect();
            chain.execute(chain.request(Plan { passed: 2_000_000_000, absent, ..Plan::default() }));
            check(&chain);
            if chain.height % 5 == 0 {
                // An epoch's end: all power is given out, within the caps, and at most a tenth of it moved.
                let now = chain.set(chain.height + 2);
                assert_eq!(now.values().sum::<i64>(), TOTAL as i64);
                assert!(now.iter().all(|(key, power)| *power <= before[key].max(cap(n) as i64)));
                let moved: u64 = now.iter().map(|(key, power)| power.abs_diff(before[key])).sum::<u64>() / 2;
                assert!(moved <= TOTAL / 10, "{moved} moved");
                before = now.clone();
            }
        }
        for key in world.operators[..n].iter().map(|o| consensus_key(&o.address())) {
            let evidence = Misbehavior {
                r#type: MisbehaviorType::DuplicateVote.into(),
                validator: Some(Validator { address: consensus_address(&key).to_vec().into(), power: 1 }),
                height: chain.height as i64,
                time: Some(timestamp(chain.time)),
                total_voting_power: TOTAL as i64,
            };
            let plan = Plan { passed: 1_000_000_000, misbehavior: vec![evidence], ..Plan::default() };
            chain.execute(chain.request(plan));
            chain.app.invariants().unwrap();
        }
        assert_eq!(chain.set(chain.height + 2).len(), 1, "the last validator stays");
        chain.block(Vec::new());
    }
}

/// The state that a random chain leaves is one that a chain can start with.
#[test]
fn an_export_of_anything_is_a_genesis() {
    let dir = tempfile::tempdir().unwrap();
    let mut traffic = Traffic::new(7);
    let genesis = traffic.world.genesis(4);
    let (mut chain, _) = Chain::start(&dir.path().join("one"), Options::default(), &genesis);
    for _ in 0..40 {
        traffic.step(&mut chain);
    }
    let exported = chain.app.export().unwrap();
    let (other, _) = Chain::start(&dir.path().join("other"), Options::default(), &exported);
    other.app.invariants().unwrap();
    let again = other.app.export().unwrap();
    let balances = |genesis: &serde_json::Value| -> BTreeMap<String, serde_json::Value> {
        let list = genesis["bank"]["balances"].as_array().unwrap();
        list.iter().map(|b| (b["address"].to_string(), b["coins"].clone())).collect()
    };
    assert_eq!(balances(&again), balances(&exported));
    let _ = other.state().height();
    for section in ["models", "workers", "reputation", "tasks", "beacon"] {
        assert_eq!(again[section], exported[section], "{section}");
    }
    let _: Option<Vec<u8>> = other.state().get("bank", &[]).unwrap();
}
