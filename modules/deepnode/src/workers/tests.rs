use deepnode_core::testing::TestState;
use deepnode_core::{Coin, Messages, Time};
use deepnode_cosmos::auth::AuthModule;
use deepnode_cosmos::bank::BankModule;
use deepnode_cosmos::staking::genesis::{Genesis as Staking, GenesisValidator};
use deepnode_cosmos::staking::StakingModule;
use deepnode_proto::deepnode::workers::v1::{self as proto, *};
use deepnode_proto::{Message, Name};
use proptest::prelude::*;

use super::{state, Params, Worker, *};
use crate::beacon::BeaconModule;
use crate::models::{self, ModelsModule};

const DN: u128 = 1_000_000;
const UNBONDING: u64 = 10;
const EPOCH: u64 = 5;

/// Worker n.
fn w(n: u8) -> Address {
    Address([n; 20])
}

/// Operator of validator n.
fn op(n: u8) -> Address {
    Address([100 + n; 20])
}

/// Model n; 1 and 2 are active, 3 is deprecated.
fn model(n: u8) -> ModelId {
    [n; 32]
}

struct Chain {
    state: TestState,
    messages: Messages,
}

impl Chain {
    /// Validators 1 and 2; epochs of 5 blocks; an unbonding time of 10 blocks; two models a worker.
    fn new() -> Chain {
        let mut state = TestState::new();
        let clock = beacon::Params { blocks: EPOCH, max_duration: 1_000_000 };
        let params = Params {
            unbonding_blocks: UNBONDING,
            max_models: 2,
            max_idle_epochs: 1,
            proven_decay_ppm: 500_000,
            ..Params::default()
        };
        let listed = models::genesis::Genesis {
            models: [1, 2, 3].map(listed_model).to_vec(),
            ..models::genesis::Genesis::default()
        };
        state
            .run(|cx| {
                AuthModule.init_genesis(cx, &AuthModule.default_genesis())?;
                BankModule.init_genesis(cx, &BankModule.default_genesis())?;
                for n in 1..10 {
                    bank::mint_udn(cx, &w(n), 1_000 * DN)?;
                    bank::mint_udn(cx, &op(n), 1_000 * DN)?;
                }
                let genesis_validators = [1, 2].map(validator).to_vec();
                let staking = Staking { genesis_validators, ..Staking::default() };
                StakingModule.init_genesis(cx, &serde_json::json!(staking))?;
                BeaconModule.init_genesis(cx, &serde_json::json!(beacon::genesis::Genesis::new(&clock)))?;
                ModelsModule.init_genesis(cx, &serde_json::json!(listed))?;
                WorkersModule.init_genesis(cx, &serde_json::json!(genesis::Genesis::new(&params)))?;
                BeaconModule.pre_block(cx)
            })
            .unwrap();
        let mut messages = Messages::default();
        WorkersModule.messages(&mut messages);
        Chain { state, messages }
    }

    fn send<M: Message + Name>(&mut self, msg: &M) -> std::result::Result<(), String> {
        let handler = self.messages.get(&M::type_url()).unwrap();
        let result = self.state.run(|cx| handler.run(cx, &msg.encode_to_vec()));
        self.check();
        result.map(|_| ()).map_err(|e| e.to_string())
    }

    fn run<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> T {
        let result = self.state.run(f).unwrap();
        self.check();
        result
    }

    fn check(&mut self) {
        self.state.run(|cx| WorkersModule.invariants(cx)).unwrap();
    }

    fn blocks(&mut self, blocks: u64) {
        for _ in 0..blocks {
            self.run(|cx| WorkersModule.end_block(cx));
            self.state.block.height += 1;
            self.state.block.time = Time(self.state.block.height);
            self.run(|cx| BeaconModule.pre_block(cx));
        }
    }

    fn epoch(&self) -> u64 {
        self.state.query(|cx| beacon::epoch(cx.state)).unwrap().number
    }

    /// Goes to the first block of the next epoch.
    fn next_epoch(&mut self) {
        let now = self.epoch();
        while self.epoch() == now {
            self.blocks(1);
        }
    }

    fn worker(&self, n: u8) -> Worker {
        self.state.query(|cx| existing(cx.state, &w(n))).unwrap()
    }

    fn backed(&self, n: u8) -> Option<Address> {
        self.state.query(|cx| backed(cx.state, &w(n))).unwrap()
    }

    fn balance(&self, n: u8) -> u128 {
        self.state.query(|cx| bank::balance_udn(cx.state, &w(n))).unwrap()
    }

    fn serving(&self, n: u8) -> (Vec<Address>, Served) {
        self.state.query(|cx| {
            let workers = serving(cx.state, &model(n)).collect::<Result<_>>().unwrap();
            (workers, served(cx.state, &model(n)).unwrap())
        })
    }

    fn register(&mut self, n: u8, bond: u128) -> std::result::Result<(), String> {
        self.send(&registration(n, bond))
    }
}

fn listed_model(n: u8) -> models::genesis::ModelJson {
    let status = if n == 3 { "MODEL_STATUS_DEPRECATED" } else { "MODEL_STATUS_ACTIVE" };
    models::genesis::ModelJson {
        id: hex::encode(model(n)),
        name: format!("model-{n}"),
        architecture: "010000001e000000400200000900000003000000400000000006000000c00000\
                       00200000acc527370050c3470000803f010000000100000002000000"
            .into(),
        status: status.into(),
        ..models::genesis::ModelJson::default()
    }
}

fn validator(n: u8) -> GenesisValidator {
    GenesisValidator {
        moniker: format!("v{n}"),
        operator: op(n),
        consensus_pubkey: [n; 32],
        self_delegation: 10 * DN,
        commission_rate: Dec::percent(10),
    }
}

fn udn(amount: u128) -> Option<deepnode_proto::cosmos::base::v1beta1::Coin> {
    Some(Coin::udn(amount).to_proto())
}

fn registration(n: u8, bond: u128) -> MsgRegisterWorker {
    MsgRegisterWorker {
        worker: w(n).to_string(),
        bond: udn(bond),
        validator: op(1).to_operator(),
        endpoint: "http://127.0.0.1:9000".into(),
        hardware: "8 cores".into(),
        declared: 2_000,
    }
}

fn serve(n: u8, models: &[u8]) -> MsgServeModels {
    let model_ids = models.iter().map(|n| model(*n).to_vec()).collect();
    MsgServeModels { worker: w(n).to_string(), model_ids }
}

fn unbond(n: u8, amount: u128) -> MsgUnbond {
    MsgUnbond { worker: w(n).to_string(), amount: udn(amount) }
}

fn back(n: u8, v: u8) -> MsgBackValidator {
    MsgBackValidator { worker: w(n).to_string(), validator: op(v).to_operator() }
}

fn approve(v: u8, n: u8) -> MsgApproveWorker {
    MsgApproveWorker { operator: op(v).to_string(), worker: w(n).to_string() }
}

fn heartbeat(n: u8) -> MsgHeartbeat {
    MsgHeartbeat { worker: w(n).to_string() }
}

#[test]
fn registration_names_what_it_refuses() {
    let mut chain = Chain::new();
    let mut refused = |change: fn(&mut MsgRegisterWorker), expected: &str| {
        let mut msg = registration(1, 100 * DN);
        change(&mut msg);
        let error = chain.send(&msg).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    refused(|m| m.bond = udn(100 * DN - 1), "bond.amount is 99999999, allowed are 100000000 to");
    refused(|m| m.validator = op(3).to_operator(), "validator dnvaloper1");
    refused(|m| m.endpoint = "ftp://host".into(), "must be an http:// or https:// URL");
    refused(|m| m.endpoint = format!("http://{}", "a".repeat(250)), "length of endpoint is 257");
    refused(|m| m.declared = 0, "declared is 0, allowed are 1 to");
    chain.register(1, 100 * DN).unwrap();
    assert_eq!(chain.balance(1), 900 * DN);
    assert!(chain.register(1, 100 * DN).unwrap_err().contains("is registered"));
    assert!(chain.send(&heartbeat(2)).unwrap_err().contains("not found"));
}

#[test]
fn a_first_join_counts_from_the_end_of_the_epoch_and_a_move_leaves_before_it_joins() {
    let mut chain = Chain::new();
    chain.register(1, 100 * DN).unwrap();
    assert!(chain.send(&approve(2, 1)).unwrap_err().contains("does not wait for the consent"));
    assert_eq!(chain.backed(1), None, "not without consent");
    chain.send(&approve(1, 1)).unwrap();
    assert!(chain.send(&approve(1, 1)).unwrap_err().contains("does not wait for the consent"));
    assert_eq!(chain.backed(1), None, "not within the epoch");
    chain.next_epoch();
    assert_eq!(chain.backed(1), Some(op(1)));
    assert!(chain.send(&back(1, 1)).unwrap_err().contains("backs"));

    chain.send(&back(1, 2)).unwrap();
    chain.next_epoch();
    assert_eq!(chain.backed(1), Some(op(1)), "stays until the other consents");
    chain.send(&approve(2, 1)).unwrap();
    assert_eq!(chain.backed(1), Some(op(1)));
    chain.next_epoch();
    assert_eq!(chain.backed(1), None, "left at the end of e");
    chain.next_epoch();
    assert_eq!(chain.backed(1), Some(op(2)), "joined at the end of e + 1");

    chain.send(&back(1, 1)).unwrap();
    chain.send(&approve(1, 1)).unwrap();
    chain.send(&back(1, 2)).unwrap();
    chain.next_epoch();
    chain.next_epoch();
    assert_eq!((chain.backed(1), chain.worker(1).next), (Some(op(2)), None), "a move is given up in time");
}

#[test]
fn models_know_their_workers_and_bonds() {
    let mut chain = Chain::new();
    chain.register(1, 100 * DN).unwrap();
    chain.register(2, 200 * DN).unwrap();
    assert!(chain.send(&serve(1, &[1, 2, 1])).unwrap_err().contains("number of model_ids is 3"));
    assert!(chain.send(&serve(1, &[1, 1])).unwrap_err().contains("twice"));
    assert!(chain.send(&serve(1, &[3])).unwrap_err().contains("is Deprecated, must be active"));
    assert!(chain.send(&serve(1, &[9])).unwrap_err().contains("not found"));
    chain.send(&serve(1, &[1, 2])).unwrap();
    chain.send(&serve(2, &[1])).unwrap();
    assert_eq!(chain.serving(1), (vec![w(1), w(2)], Served { workers: 2, bond: 300 * DN }));
    chain.send(&serve(1, &[2])).unwrap();
    assert_eq!(chain.serving(1), (vec![w(2)], Served { workers: 1, bond: 200 * DN }));
    // Below the least bond it is not drawn; with it, it is back.
    chain.send(&unbond(2, 150 * DN)).unwrap();
    assert_eq!((chain.serving(1).0.len(), chain.worker(2).status), (0, Status::Inactive));
    chain.send(&MsgAddBond { worker: w(2).to_string(), amount: udn(50 * DN) }).unwrap();
    assert_eq!(chain.serving(1), (vec![w(2)], Served { workers: 1, bond: 100 * DN }));
    chain.run(|cx| bar(cx, &w(2)));
    assert_eq!(chain.serving(1).0.len(), 0);
    assert!(chain.send(&serve(2, &[1])).unwrap_err().contains("is barred"));
    chain.send(&unbond(2, 100 * DN)).unwrap();
}

#[test]
fn a_bond_leaves_an_unbonding_time_after_the_last_receipt() {
    let mut chain = Chain::new();
    chain.register(1, 300 * DN).unwrap();
    assert!(chain.send(&unbond(1, 301 * DN)).unwrap_err().contains("allowed are 1 to 300000000"));
    chain.send(&unbond(1, 50 * DN)).unwrap();
    chain.blocks(UNBONDING / 2);
    chain.send(&unbond(1, 50 * DN)).unwrap();
    chain.blocks(UNBONDING);
    assert_eq!(chain.balance(1), 700 * DN);
    chain.blocks(1);
    assert_eq!((chain.balance(1), chain.worker(1).leaving), (800 * DN, 0));

    chain.send(&unbond(1, 200 * DN)).unwrap();
    chain.run(|cx| task_opened(cx, &w(1)));
    chain.blocks(3 * UNBONDING);
    assert_eq!(chain.balance(1), 800 * DN, "a receipt is open");
    chain.run(|cx| task_closed(cx, &w(1)));
    chain.blocks(UNBONDING);
    assert_eq!(chain.balance(1), 800 * DN);
    chain.blocks(UNBONDING);
    assert_eq!((chain.balance(1), chain.worker(1).bond), (1_000 * DN, 0));
}

#[test]
fn a_slash_takes_of_what_leaves_too() {
    let mut chain = Chain::new();
    chain.register(1, 400 * DN).unwrap();
    chain.send(&unbond(1, 100 * DN)).unwrap();
    let taken = chain.run(|cx| slash(cx, &w(1), Dec::percent(25), &w(9)));
    assert_eq!((taken, chain.balance(9)), (100 * DN, 1_100 * DN));
    assert_eq!((chain.worker(1).bond, chain.worker(1).leaving), (225 * DN, 75 * DN));
    assert_eq!(chain.run(|cx| slash(cx, &w(1), Dec::ONE, &w(9))), 300 * DN);
    assert_eq!(chain.worker(1).status, Status::Inactive);
    chain.blocks(2 * UNBONDING);
    assert_eq!(chain.balance(1), 600 * DN);
}

#[test]
fn one_heartbeat_an_epoch_and_the_silent_are_not_drawn() {
    let mut chain = Chain::new();
    chain.register(1, 100 * DN).unwrap();
    let drawable = |chain: &Chain| chain.state.query(|cx| drawable(cx.state, &chain.worker(1))).unwrap();
    chain.send(&heartbeat(1)).unwrap();
    assert!(chain.send(&heartbeat(1)).unwrap_err().contains("has sent the heartbeat of epoch 1"));
    chain.next_epoch();
    assert!(drawable(&chain));
    chain.next_epoch();
    assert!(!drawable(&chain), "silent for more than an epoch");
    chain.send(&heartbeat(1)).unwrap();
    assert!(drawable(&chain));
    chain.run(|cx| record_work(cx, &w(1), 1_000, 2));
    assert_eq!(chain.worker(1).proven, 500);
    chain.next_epoch();
    assert_eq!(chain.worker(1).proven, 250, "proven capacity fades");
    chain.run(|cx| record_work(cx, &w(1), 100, 1));
    assert_eq!(chain.worker(1).proven, 250);
}

#[test]
fn export_is_the_inverse_of_import() {
    let mut chain = Chain::new();
    chain.register(1, 300 * DN).unwrap();
    chain.register(2, 100 * DN).unwrap();
    chain.send(&serve(1, &[1, 2])).unwrap();
    chain.send(&unbond(1, 50 * DN)).unwrap();
    chain.send(&approve(1, 2)).unwrap();
    chain.run(|cx| add_pending(cx, &w(1), 7));
    let exported = chain.state.query(|cx| WorkersModule.export_genesis(cx.state)).unwrap();
    let mut other = Chain::new();
    let short = other.state.run(|cx| WorkersModule.init_genesis(cx, &exported)).unwrap_err().to_string();
    assert!(short.contains("bonds are 400000000 udn") && short.contains("is 0 udn"), "{short}");
    other.run(|cx| {
        bank::send_udn(cx, &w(1), &account(), 300 * DN)?;
        bank::send_udn(cx, &w(2), &account(), 100 * DN)?;
        WorkersModule.init_genesis(cx, &exported)
    });
    assert_eq!(other.state.query(|cx| WorkersModule.export_genesis(cx.state)).unwrap(), exported);
    assert_eq!(other.serving(1), chain.serving(1));
}

#[test]
fn queries_show_workers_of_a_model() {
    let mut chain = Chain::new();
    chain.register(1, 100 * DN).unwrap();
    chain.register(2, 100 * DN).unwrap();
    chain.send(&serve(2, &[1])).unwrap();
    let mut queries = Queries::default();
    WorkersModule.queries(&mut queries);
    let ask = |model_id: String| {
        let request = QueryWorkersRequest { model_id, pagination: None }.encode_to_vec();
        let bytes =
            chain.state.query(|cx| queries.run("/deepnode.workers.v1.Query/Workers", cx, &request)).unwrap();
        let found: Vec<proto::Worker> = QueryWorkersResponse::decode(bytes.as_slice()).unwrap().workers;
        found.into_iter().map(|worker| (worker.address, worker.next_validator)).collect::<Vec<_>>()
    };
    let shown = |n| (w(n).to_string(), op(1).to_operator());
    assert_eq!(ask(String::new()), [shown(1), shown(2)]);
    assert_eq!(ask(hex::encode(model(1))), [shown(2)]);
    assert!(ask(hex::encode(model(2))).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever is asked for, in whatever order: bonds, totals and index agree, and no udn is lost.
    #[test]
    fn books_balance(steps in proptest::collection::vec((0u8..10, 1u8..4, 0u128..300), 1..50)) {
        let mut chain = Chain::new();
        let total = |chain: &Chain| chain.state.query(|cx| bank::supply(cx.state, "udn")).unwrap();
        let before = total(&chain);
        for (what, n, amount) in steps {
            // Refusals are fine; `send` and `run` check the invariants.
            let _ = match what {
                0 => chain.register(n, amount * DN),
                1 => chain.send(&MsgAddBond { worker: w(n).to_string(), amount: udn(amount * DN) }),
                2 => chain.send(&unbond(n, amount * DN)),
                3 => chain.send(&serve(n, &[1, 2][..(amount % 3) as usize])),
                4 => { chain.blocks(amount as u64 % 15); Ok(()) }
                5 => chain.send(&approve(1, n)),
                6 => { let _ = chain.state.run(|cx| slash(cx, &w(n), Dec::percent(amount as u64 % 101), &w(9))); Ok(()) }
                7 => { let _ = chain.state.run(|cx| task_opened(cx, &w(n))); Ok(()) }
                8 => { let _ = chain.state.run(|cx| task_closed(cx, &w(n))); Ok(()) }
                _ => { if amount < 30 { let _ = chain.state.run(|cx| bar(cx, &w(n))); } Ok(()) }
            };
            chain.check();
        }
        prop_assert_eq!(total(&chain), before);
        let stored = chain.state.query(|cx| state::WORKERS.iter(cx.state, Walk::FORWARD).count());
        prop_assert!(stored <= 3);
    }
}
