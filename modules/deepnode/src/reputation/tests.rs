use deepnode_core::testing::TestState;
use deepnode_core::{authority, Messages, Time};
use deepnode_proto::deepnode::reputation::v1::{
    self as proto, MsgUpdateParams, QueryRecordsRequest, QueryRecordsResponse,
};
use deepnode_proto::Message;
use proptest::prelude::*;

use super::*;
use crate::beacon::BeaconModule;

const WORKER: Address = Address([1; 20]);
const OPERATOR: Address = Address([2; 20]);

fn class() -> Class {
    let mut class = Class::localnet().remove(0);
    class.cu_ref = 10_000;
    class
}

/// kappa 2 units, half-life 100, ramp 2; epochs of 2 blocks.
struct Chain(TestState);

impl Chain {
    fn new() -> Chain {
        let mut state = TestState::new();
        let beacon = beacon::genesis::Genesis::new(&beacon::Params { blocks: 2, max_duration: 1_000_000 });
        let genesis = genesis::Genesis::new(&Params::localnet()).unwrap();
        state
            .run(|cx| {
                BeaconModule.init_genesis(cx, &serde_json::json!(beacon))?;
                ReputationModule.init_genesis(cx, &serde_json::json!(genesis))?;
                BeaconModule.pre_block(cx)
            })
            .unwrap();
        Chain(state)
    }

    /// Goes to the next epoch.
    fn epoch(&mut self) {
        for _ in 0..2 {
            self.0.block.height += 1;
            self.0.block.time = Time(self.0.block.height);
            self.0.run(|cx| BeaconModule.pre_block(cx)).unwrap();
        }
    }

    fn run<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> T {
        let result = self.0.run(f).unwrap();
        self.0.run(|cx| ReputationModule.invariants(cx)).unwrap();
        result
    }

    fn pass(&mut self, units: u64) {
        let cap = class().capability();
        self.run(|cx| (0..units).try_for_each(|_| pass(cx, &WORKER, &cap, 10_000, &class())));
    }

    fn r(&self) -> Dec {
        self.0.query(|cx| value(cx.state, &WORKER, &class().capability())).unwrap()
    }

    fn duty(&self) -> Dec {
        self.0.query(|cx| duty(cx.state, &OPERATOR)).unwrap()
    }
}

#[test]
fn evidence_counts_from_the_next_epoch_and_a_conviction_at_once() {
    let mut chain = Chain::new();
    chain.pass(1);
    assert_eq!(chain.r(), Dec::ZERO, "fixed within an epoch");
    chain.epoch();
    let grown = chain.r();
    assert!(grown > Dec::percent(30) && grown < Dec::percent(34), "1 of 1 + 2 units, decayed once: {grown}");
    chain.pass(1_000);
    assert_eq!(chain.r(), grown);
    let cap = class().capability();
    let (before, after) = chain.run(|cx| wrong(cx, &WORKER, &cap, 1, &class()));
    assert_eq!((before, after), (grown, chain.r()));
    assert!(after < Dec::percent(3), "one wrong outweighs fifty passes: {after}");
    chain.pass(5);
    chain.run(|cx| forfeit(cx, &WORKER, &cap));
    chain.epoch();
    assert_eq!(chain.r(), Dec::ZERO, "nothing is left of what it had shown");
}

#[test]
fn lateness_and_absence_count_by_their_audit_chance() {
    let soft = |f: fn(&mut Ctx<'_>, &Address, &str, u64, &Class, Dec) -> Result<()>, p| {
        let mut chain = Chain::new();
        chain.pass(1);
        let cap = class().capability();
        chain.run(|cx| f(cx, &WORKER, &cap, 1_000, &class(), p));
        chain.epoch();
        chain.r()
    };
    let mut only_passes = Chain::new();
    only_passes.pass(1);
    only_passes.epoch();
    let rare = soft(late, Dec::percent(2));
    assert!(soft(unavailable, Dec::ONE) < soft(late, Dec::ONE));
    assert!(soft(late, Dec::ONE) < rare && rare < only_passes.r());
}

#[test]
fn validators_start_at_one_and_lose_by_missing_and_failing() {
    let mut chain = Chain::new();
    assert_eq!(chain.duty(), Dec::ONE);
    chain.run(|cx| duty_missed(cx, &OPERATOR));
    assert_eq!(chain.duty(), Dec::ONE, "fixed within an epoch");
    chain.epoch();
    let missed = chain.duty();
    // A missed audit of five: 2 / (2 + 5), less what one epoch forgets.
    assert!(missed > Dec::percent(28) && missed < Dec::percent(30), "{missed}");
    chain.run(|cx| duty_stood(cx, &OPERATOR));
    chain.epoch();
    assert!(chain.duty() > missed);
    chain.run(|cx| duty_wrong(cx, &OPERATOR));
    assert!(chain.duty() < Dec::percent(10));
    let signed = chain.0.query(|cx| duty_signed(cx.state, &OPERATOR, Dec::percent(50))).unwrap();
    assert!(signed <= chain.duty() && signed >= chain.duty().div_int(2).unwrap());
}

#[test]
fn queries_show_r_as_it_is_now() {
    let mut chain = Chain::new();
    chain.pass(1);
    chain.run(|cx| duty_stood(cx, &WORKER));
    chain.epoch();
    let mut queries = Queries::default();
    ReputationModule.queries(&mut queries);
    let request = QueryRecordsRequest { subject: WORKER.to_string(), pagination: None };
    let answer = chain.0.query(|cx| {
        queries.run("/deepnode.reputation.v1.Query/Records", cx, &request.encode_to_vec()).unwrap()
    });
    let records = QueryRecordsResponse::decode(answer.as_slice()).unwrap().records;
    let shown: Vec<_> = records.iter().map(|r| (r.capability.as_str(), r.subject.clone(), r.epoch)).collect();
    assert_eq!(
        shown,
        [("audit", WORKER.to_operator(), 2), (class().capability().as_str(), WORKER.to_string(), 2)]
    );
    assert_eq!(records[1].reputation, chain.r().to_wire());
    assert_eq!(records[1].new_passes, "0", "folded");
}

#[test]
fn export_is_the_inverse_of_import() {
    let mut chain = Chain::new();
    chain.pass(3);
    let cap = class().capability();
    chain.run(|cx| wrong(cx, &WORKER, &cap, 5, &class()));
    let exported = chain.0.query(|cx| ReputationModule.export_genesis(cx.state)).unwrap();
    let mut other = Chain::new();
    other.run(|cx| ReputationModule.init_genesis(cx, &exported));
    assert_eq!(other.0.changes, chain.0.changes);
}

#[test]
fn governance_sets_constants_within_bounds() {
    let mut chain = Chain::new();
    let mut messages = Messages::default();
    ReputationModule.messages(&mut messages);
    let mut send = |kappa| {
        let params = Some(proto::Params { kappa, half_life: 10, ramp: 3 });
        let msg = MsgUpdateParams { authority: authority().to_string(), params };
        let handler = messages.get("/deepnode.reputation.v1.MsgUpdateParams").unwrap();
        chain.0.run(|cx| handler.run(cx, &msg.encode_to_vec())).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(send(0).unwrap_err().contains("reputation.kappa is 0, allowed are 1 to 1000000000000"));
    send(7).unwrap();
    assert_eq!(chain.0.query(|cx| params(cx.state)).unwrap().kappa, 7 * MICRO);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever happens, 0 <= R < 1, and nothing that happens within an epoch raises R.
    #[test]
    fn r_stays_in_its_bounds(steps in proptest::collection::vec((0u8..5, 0u64..1_000_000_000), 1..60)) {
        let mut chain = Chain::new();
        let cap = class().capability();
        for (what, cu) in steps {
            let before = chain.r();
            match what {
                0 => chain.run(|cx| pass(cx, &WORKER, &cap, cu, &class())),
                1 => chain.run(|cx| late(cx, &WORKER, &cap, cu, &class(), Dec::percent(cu % 101))),
                2 => chain.run(|cx| unavailable(cx, &WORKER, &cap, cu, &class(), Dec::percent(cu % 101))),
                3 => { chain.run(|cx| wrong(cx, &WORKER, &cap, cu, &class())); }
                _ => { chain.epoch(); continue; }
            }
            prop_assert!(chain.r() <= before && chain.r() < Dec::ONE);
        }
    }
}
