use deepnode_core::block::{Misbehavior, MisbehaviorKind};
use deepnode_core::testing::TestState;
use deepnode_core::{
    Address, Coin, Ctx, Dec, Error, Event, Messages, Module, Queries, Result, StakingHooks, Time,
};
use deepnode_proto::cosmos::base::query::v1beta1::PageRequest;
use deepnode_proto::cosmos::crypto::ed25519;
use deepnode_proto::cosmos::staking::v1beta1::{self as proto, *};
use deepnode_proto::{Any, AnyExt, Message};
use proptest::prelude::*;

use super::genesis::{Genesis, GenesisValidator, ParamsJson};
use super::state::{Status, Validator, LIABILITIES, UNBONDINGS};
use super::*;
use crate::bank;

const DN: u128 = 1_000_000;
const DAY: u64 = 24 * 3_600;

/// Tells every call as an event.
struct Recorder;

fn told(cx: &mut Ctx<'_>, what: &'static str, who: &Address) -> Result<()> {
    cx.emit(Event::new("hook").with("call", what).with("validator", who));
    Ok(())
}

impl StakingHooks for Recorder {
    fn after_validator_created(&self, cx: &mut Ctx<'_>, v: &Address) -> Result<()> {
        told(cx, "created", v)
    }
    fn after_validator_removed(&self, cx: &mut Ctx<'_>, v: &Address, _: &Address) -> Result<()> {
        told(cx, "removed", v)
    }
    fn after_validator_bonded(&self, cx: &mut Ctx<'_>, v: &Address, _: &Address) -> Result<()> {
        told(cx, "bonded", v)?;
        set_power(cx, v, 1)
    }
    fn after_validator_begin_unbonding(&self, cx: &mut Ctx<'_>, v: &Address, _: &Address) -> Result<()> {
        told(cx, "unbonding", v)
    }
    fn before_validator_slashed(&self, cx: &mut Ctx<'_>, v: &Address, fraction: Dec) -> Result<()> {
        cx.emit(Event::new("hook").with("call", "slashed").with("validator", v).with("fraction", fraction));
        Ok(())
    }
}

fn user(n: u8) -> Address {
    Address([n; 20])
}

/// Operators are 101, 102, ...; validator n has the consensus key [n; 32].
fn op(n: u8) -> Address {
    Address([100 + n; 20])
}

fn consensus_of(n: u8) -> Address {
    Address::from_ed25519(&[n; 32])
}

struct Chain {
    state: TestState,
    messages: Messages,
    events: Vec<Event>,
}

impl Chain {
    /// Validators 1, 2, ... with these self delegations (in DN), bonded by genesis; everybody has 10^6 DN besides.
    fn new(max_validators: u32, stakes: &[u128]) -> Chain {
        let mut state = TestState::new();
        state.block.time = Time(1_700_000_000_000_000_000);
        state.hooks = vec![&Recorder];
        let genesis_validators = (1u8..)
            .zip(stakes)
            .map(|(n, stake)| GenesisValidator {
                moniker: format!("v{n}"),
                operator: op(n),
                consensus_pubkey: [n; 32],
                self_delegation: stake * DN,
                commission_rate: Dec::percent(10),
            })
            .collect();
        let params = ParamsJson { max_validators, ..ParamsJson::default() };
        let genesis = Genesis { params, genesis_validators, ..Genesis::default() };
        let events = state
            .run(|cx| {
                for n in 1..=9 {
                    bank::mint_udn(cx, &user(n), 1_000_000 * DN)?;
                    bank::mint_udn(cx, &op(n), 1_000_000 * DN)?;
                }
                crate::consensus::init_chain(cx, 1, 1, &crate::consensus::Params::default())?;
                StakingModule.init_genesis(cx, &serde_json::json!(genesis))?;
                StakingModule.begin_block(cx)?;
                Ok(cx.take_events())
            })
            .unwrap();
        let mut messages = Messages::default();
        StakingModule.messages(&mut messages);
        Chain { state, messages, events }
    }

    fn run<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> Result<T> {
        let result = self.state.run(f);
        self.events.extend(self.state.events.clone());
        result
    }

    fn ok<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> T {
        self.run(f).unwrap()
    }

    /// Ends this block and begins the next one, `seconds` later.
    fn next(&mut self, seconds: u64) {
        self.ok(|cx| StakingModule.end_block(cx));
        self.state.block.height += 1;
        self.state.block.time = self.state.block.time.plus_secs(seconds);
        self.ok(|cx| StakingModule.begin_block(cx));
        self.state.block.misbehavior.clear();
    }

    /// Goes on to `height` in blocks of 5 s.
    fn to(&mut self, height: u64) {
        while self.state.block.height < height {
            self.next(5);
        }
    }

    fn send<R: Message + Default + prost::Name>(&mut self, m: &impl prost::Name) -> Result<R> {
        let any = Any::pack(m);
        let Chain { state, messages, events } = self;
        let answer = state.run(|cx| messages.get(&any.type_url)?.run(cx, &any.value));
        events.extend(state.events.clone());
        Ok(answer?.unpack::<R>().unwrap())
    }

    fn query<R: Message + Default>(&self, method: &str, q: &impl Message) -> deepnode_core::QueryResult<R> {
        let mut queries = Queries::default();
        StakingModule.queries(&mut queries);
        let path = format!("/cosmos.staking.v1beta1.Query/{method}");
        self.state.query(|cx| queries.run(&path, cx, &q.encode_to_vec())).map(|b| R::decode(&*b).unwrap())
    }

    fn validator(&mut self, n: u8) -> Validator {
        self.ok(|cx| validator(cx, &op(n))).unwrap()
    }

    fn bonded(&mut self) -> Vec<u8> {
        self.ok(|cx| bonded(cx)).iter().map(|(a, _)| a.0[0] - 100).collect()
    }

    fn balance(&mut self, a: Address) -> u128 {
        self.ok(|cx| bank::balance_udn(cx, &a))
    }

    fn check(&mut self) {
        self.ok(|cx| StakingModule.invariants(cx));
    }

    /// Calls of hooks since the last look.
    fn calls(&mut self) -> Vec<(String, u8)> {
        let calls = self.events.iter().filter(|e| e.kind == "hook").map(|e| {
            let who: Address = e.attributes[1].1.parse().unwrap();
            (e.attributes[0].1.clone(), who.0[0] - 100)
        });
        let calls = calls.collect();
        self.events.clear();
        calls
    }

    fn event(&self, kind: &str, key: &str) -> Option<String> {
        let event = self.events.iter().rev().find(|e| e.kind == kind)?;
        event.attributes.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone())
    }
}

fn code(e: Error) -> (u32, String) {
    match e {
        Error::Tx(e) => (e.code, e.log),
        Error::Fault(e) => panic!("{e}"),
    }
}

fn coin(udn: u128) -> Option<deepnode_proto::cosmos::base::v1beta1::Coin> {
    Some(Coin::udn(udn).to_proto())
}

fn create_message(n: u8, key: u8, stake: u128) -> MsgCreateValidator {
    MsgCreateValidator {
        description: Some(proto::Description { moniker: "new".into(), ..Default::default() }),
        commission: Some(CommissionRates {
            rate: Dec::percent(5).to_wire(),
            max_rate: Dec::percent(20).to_wire(),
            max_change_rate: Dec::percent(1).to_wire(),
        }),
        min_self_delegation: "1".into(),
        validator_address: op(n).to_operator(),
        pubkey: Some(Any::pack(&ed25519::PubKey { key: vec![key; 32] })),
        value: coin(stake),
        ..Default::default()
    }
}

#[test]
fn genesis_bonds_the_largest_and_a_round_trip_keeps_everything() {
    let mut chain = Chain::new(2, &[10, 30, 20, 30]);
    assert_eq!(chain.bonded(), [2, 4], "by tokens, then by address");
    let bonded_calls: Vec<_> = chain.calls().into_iter().filter(|(c, _)| c == "bonded").collect();
    assert_eq!(bonded_calls, [("bonded".into(), 2), ("bonded".into(), 4)]);
    assert_eq!(chain.balance(op(1)), (1_000_000 - 10) * DN);
    chain.ok(|cx| {
        delegate(cx, &user(1), &op(2), 7 * DN)?;
        undelegate(cx, &user(1), &op(2), DN)?;
        redelegate(cx, &user(1), &op(2), &op(3), 2 * DN)?;
        tombstone(cx, &op(4))
    });
    chain.next(5);
    chain.check();
    assert_eq!(chain.bonded(), [2, 3]);

    let exported = chain.ok(|cx| StakingModule.export_genesis(cx));
    let balances: Vec<_> = [BONDED_POOL, NOT_BONDED_POOL]
        .map(|pool| (Address::module(pool), chain.balance(Address::module(pool))))
        .into();
    let mut fresh = TestState::new();
    fresh.block.time = chain.state.block.time;
    let again = fresh.run(|cx| {
        for (pool, amount) in &balances {
            bank::mint_udn(cx, pool, *amount)?;
        }
        StakingModule.init_genesis(cx, &exported)?;
        assert!(tombstoned(cx, &consensus_of(4))?);
        StakingModule.export_genesis(cx)
    });
    assert_eq!(again.unwrap(), exported);

    // Without the tokens behind it the same section is refused.
    let error = TestState::new().run(|cx| StakingModule.init_genesis(cx, &exported)).unwrap_err();
    assert!(error.to_string().contains("bonded pool: 0 instead of"), "{error}");
    let default = StakingModule.default_genesis();
    TestState::new().run(|cx| StakingModule.init_genesis(cx, &default)).unwrap();
}

#[test]
fn the_set_follows_stake_every_block_and_never_empties() {
    let mut chain = Chain::new(2, &[10, 20, 5]);
    chain.calls();
    chain.ok(|cx| delegate(cx, &user(1), &op(3), 10 * DN));
    assert_eq!(chain.bonded(), [1, 2], "not before the block's end");
    chain.next(5);
    assert_eq!(chain.bonded(), [2, 3]);
    assert_eq!(chain.calls(), [("unbonding".into(), 1), ("bonded".into(), 3)]);
    let left = chain.validator(1);
    assert_eq!((left.status, left.unbonding_height), (Status::Unbonding, 1));
    assert_eq!(chain.ok(|cx| Ok((power(cx, &op(1))?, power(cx, &op(3))?, total_power(cx)?))), (0, 1, 2));
    chain.check();

    // It comes back before its time is over, and no clock of the first time unbonds it.
    chain.ok(|cx| undelegate(cx, &user(1), &op(3), 10 * DN));
    chain.next(5);
    assert_eq!(chain.bonded(), [1, 2]);
    assert_eq!(chain.validator(3).status, Status::Unbonding);
    chain.next(21 * DAY);
    chain.next(5);
    assert_eq!(chain.validator(1).status, Status::Bonded);
    assert_eq!(chain.validator(3).status, Status::Unbonded);

    // Below 1 DN nobody is bonded, but for the last.
    chain.ok(|cx| undelegate(cx, &op(1), &op(1), 10 * DN - 999_999));
    chain.ok(|cx| undelegate(cx, &op(2), &op(2), 20 * DN));
    chain.ok(|cx| undelegate(cx, &op(3), &op(3), 5 * DN));
    chain.next(5);
    assert_eq!(chain.bonded(), [1]);
    assert!(chain.event("last_validator_kept", "validator").is_some());
    assert!(!chain.ok(|cx| jail(cx, &op(1))));
    assert_eq!(chain.ok(|cx| power(cx, &op(1))), 1);
    assert!(chain.ok(|cx| validator(cx, &op(3))).is_none(), "unbonded and empty: removed");
    chain.next(5);
    assert_eq!(chain.bonded(), [1]);
    chain.check();
    // Until another stands.
    chain.ok(|cx| delegate(cx, &user(1), &op(2), DN)).atomics();
    chain.ok(|cx| unjail(cx, &op(2)));
    chain.next(5);
    assert_eq!(chain.bonded(), [2]);
    chain.check();
}

#[test]
fn jailed_validators_lose_their_power_at_once_and_may_return() {
    let mut chain = Chain::new(5, &[10, 20, 30]);
    assert!(chain.ok(|cx| jail(cx, &op(2))));
    assert!(!chain.ok(|cx| jail(cx, &op(2))), "once");
    assert_eq!(chain.ok(|cx| Ok((power(cx, &op(2))?, total_power(cx)?))), (0, 2));
    chain.next(5);
    assert_eq!(chain.bonded(), [1, 3]);
    chain.ok(|cx| unjail(cx, &op(2)));
    chain.next(5);
    assert_eq!(chain.bonded(), [1, 2, 3]);
    // The operator's own stake below its minimum jails too.
    chain.ok(|cx| undelegate(cx, &op(3), &op(3), 30 * DN));
    assert!(chain.validator(3).jailed);
    chain.next(5);
    assert_eq!(chain.bonded(), [1, 2]);
    // The last two cannot both go.
    assert!(chain.ok(|cx| tombstone(cx, &op(2))));
    assert!(!chain.ok(|cx| tombstone(cx, &op(1))));
    assert_eq!(code(chain.run(|cx| unjail(cx, &op(2))).unwrap_err()).0, 7);
    chain.next(5);
    assert_eq!(chain.bonded(), [1]);
    chain.check();
}

#[test]
fn stake_arrives_after_the_unbonding_time() {
    let mut chain = Chain::new(5, &[10, 20]);
    let (user, before) = (user(1), chain.balance(user(1)));
    let answer: MsgDelegateResponse = chain
        .send(&MsgDelegate {
            delegator_address: user.to_string(),
            validator_address: op(1).to_operator(),
            amount: coin(9 * DN),
        })
        .unwrap();
    assert_eq!(answer, MsgDelegateResponse {});
    assert_eq!(chain.event("delegate", "new_shares").unwrap(), "9000000.000000000000000000");
    let undelegate = MsgUndelegate {
        delegator_address: user.to_string(),
        validator_address: op(1).to_operator(),
        amount: coin(4 * DN),
    };
    let answer: MsgUndelegateResponse = chain.send(&undelegate).unwrap();
    assert_eq!(answer.completion_time.unwrap().seconds, 1_700_000_000 + 21 * 24 * 3_600);
    assert_eq!(chain.event("unbond", "completion_time").unwrap(), "2023-12-05T22:13:20Z");
    let _: MsgUndelegateResponse = chain.send(&undelegate).unwrap();
    chain.next(5);
    let _: MsgUndelegateResponse =
        chain.send(&MsgUndelegate { amount: coin(DN / 2), ..undelegate.clone() }).unwrap();
    let entries = chain.ok(|cx| UNBONDINGS.get(cx, &(user, op(1)))).unwrap();
    assert_eq!(entries.len(), 2, "one entry a block: {entries:?}");

    // Half a DN of the first entry goes back.
    let cancel = MsgCancelUnbondingDelegation {
        delegator_address: user.to_string(),
        validator_address: op(1).to_operator(),
        amount: coin(DN / 2),
        creation_height: 1,
    };
    let _: MsgCancelUnbondingDelegationResponse = chain.send(&cancel).unwrap();
    let too_much = MsgCancelUnbondingDelegation { amount: coin(8 * DN), ..cancel.clone() };
    let (code18, text) = code(chain.send::<MsgCancelUnbondingDelegationResponse>(&too_much).unwrap_err());
    assert_eq!(code18, 18);
    assert!(text.contains("amount 8000000 is greater than the unbonding delegation entry balance 7500000"));
    assert_eq!(chain.ok(|cx| delegation(cx, &user, &op(1))).unwrap(), Dec::from_int(DN).unwrap());

    chain.next(21 * DAY - 6);
    assert_eq!(chain.balance(user), before - 9 * DN);
    chain.next(1);
    chain.next(5);
    assert_eq!(chain.balance(user), before - 9 * DN + 7 * DN + DN / 2);
    assert_eq!(chain.event("complete_unbonding", "amount").unwrap(), "7500000udn");
    chain.next(5);
    assert_eq!(chain.balance(user), before - DN);
    assert!(chain.ok(|cx| UNBONDINGS.get(cx, &(user, op(1)))).is_none());
    chain.check();
}

#[test]
fn a_block_pays_a_bounded_number_and_the_next_the_rest() {
    let mut chain = Chain::new(5, &[10]);
    let many: Vec<Address> = (0..700u16)
        .map(|n| {
            let mut a = [9; 20];
            a[..2].copy_from_slice(&n.to_be_bytes());
            Address(a)
        })
        .collect();
    chain.ok(|cx| {
        for a in &many {
            bank::mint_udn(cx, a, DN)?;
            delegate(cx, a, &op(1), DN)?;
            undelegate(cx, a, &op(1), DN)?;
        }
        Ok(())
    });
    let mut paid = Vec::new();
    chain.next(21 * DAY);
    for _ in 0..3 {
        paid.push(chain.ok(|cx| many.iter().map(|a| bank::balance_udn(cx, a)).sum::<Result<u128>>()) / DN);
        chain.next(5);
    }
    assert_eq!(paid, [0, 500, 700]);
    chain.check();
}

#[test]
fn redelegation_is_bounded_and_not_transitive() {
    let mut chain = Chain::new(5, &[10, 20, 30]);
    let user = user(1);
    chain.ok(|cx| delegate(cx, &user, &op(1), 20 * DN));
    let message = |from: u8, to: u8, udn: u128| MsgBeginRedelegate {
        delegator_address: user.to_string(),
        validator_src_address: op(from).to_operator(),
        validator_dst_address: op(to).to_operator(),
        amount: coin(udn),
    };
    let refused = |chain: &mut Chain, m: MsgBeginRedelegate| {
        code(chain.send::<MsgBeginRedelegateResponse>(&m).unwrap_err()).0
    };
    for _ in 0..7 {
        let _: MsgBeginRedelegateResponse = chain.send(&message(1, 2, DN)).unwrap();
    }
    assert_eq!(refused(&mut chain, message(1, 2, DN)), 33, "max_entries");
    assert_eq!(refused(&mut chain, message(1, 1, DN)), 29);
    assert_eq!(refused(&mut chain, message(1, 8, DN)), 31);
    assert_eq!(refused(&mut chain, message(2, 3, DN)), 32, "what arrived may not go on");
    assert_eq!(refused(&mut chain, message(1, 2, 100 * DN)), 18);
    assert_eq!(refused(&mut chain, message(3, 2, DN)), 19);
    let found: QueryRedelegationsResponse = chain
        .query(
            "Redelegations",
            &QueryRedelegationsRequest { src_validator_addr: op(1).to_operator(), ..Default::default() },
        )
        .unwrap();
    assert_eq!(found.redelegation_responses[0].entries.len(), 7);
    assert_eq!(found.redelegation_responses[0].entries[0].balance, DN.to_string());
    chain.next(21 * DAY);
    chain.next(5);
    let _: MsgBeginRedelegateResponse = chain.send(&message(2, 3, 7 * DN)).unwrap();
    chain.check();
}

#[test]
fn validators_are_created_and_edited_within_their_bounds() {
    let mut chain = Chain::new(5, &[10]);
    let mut refused = |m: MsgCreateValidator| code(chain.send::<MsgCreateValidatorResponse>(&m).unwrap_err());
    let good = create_message(2, 2, 5 * DN);
    assert_eq!(refused(create_message(1, 2, DN)).0, 4);
    assert_eq!(refused(create_message(2, 1, DN)).0, 5);
    assert_eq!(refused(MsgCreateValidator { min_self_delegation: "9000000".into(), ..good.clone() }).0, 16);
    assert_eq!(refused(MsgCreateValidator { value: coin(0), ..good.clone() }).0, 10);
    assert_eq!(refused(MsgCreateValidator { description: None, ..good.clone() }).0, 18);
    assert_eq!(refused(MsgCreateValidator { validator_address: op(2).to_string(), ..good.clone() }).0, 7);
    let secp = deepnode_proto::cosmos::crypto::secp256k1::PubKey { key: vec![2; 33] };
    assert_eq!(refused(MsgCreateValidator { pubkey: Some(Any::pack(&secp)), ..good.clone() }).0, 6);
    let rates = |rate, max, change| {
        Some(CommissionRates {
            rate: Dec::percent(rate).to_wire(),
            max_rate: Dec::percent(max).to_wire(),
            max_change_rate: Dec::percent(change).to_wire(),
        })
    };
    assert_eq!(refused(MsgCreateValidator { commission: rates(5, 101, 1), ..good.clone() }).0, 10);
    assert_eq!(refused(MsgCreateValidator { commission: rates(21, 20, 1), ..good.clone() }).0, 11);
    assert_eq!(refused(MsgCreateValidator { commission: rates(5, 20, 21), ..good.clone() }).0, 14);

    let _: MsgCreateValidatorResponse = chain.send(&good).unwrap();
    chain.next(5);
    assert_eq!(chain.bonded(), [1, 2]);
    assert_eq!(chain.event("create_validator", "validator").unwrap(), op(2).to_operator());

    let edit = MsgEditValidator {
        description: Some(proto::Description {
            moniker: "renamed".into(),
            identity: "[do-not-modify]".into(),
            website: "https://example.org".into(),
            ..Default::default()
        }),
        validator_address: op(2).to_operator(),
        commission_rate: Dec::percent(6).to_wire(),
        min_self_delegation: "2000000".into(),
    };
    assert_eq!(code(chain.send::<MsgEditValidatorResponse>(&edit).unwrap_err()).0, 12, "within a day");
    chain.next(DAY);
    let _: MsgEditValidatorResponse = chain.send(&edit).unwrap();
    let shown: QueryValidatorResponse =
        chain.query("Validator", &QueryValidatorRequest { validator_addr: op(2).to_operator() }).unwrap();
    let shown = shown.validator.unwrap();
    assert_eq!(shown.description.unwrap().moniker, "renamed");
    assert_eq!(shown.commission.unwrap().commission_rates.unwrap().rate, "60000000000000000");
    assert_eq!((shown.min_self_delegation.as_str(), shown.tokens.as_str()), ("2000000", "5000000"));
    chain.next(DAY);
    let steep = MsgEditValidator { commission_rate: Dec::percent(8).to_wire(), ..edit.clone() };
    assert_eq!(code(chain.send::<MsgEditValidatorResponse>(&steep).unwrap_err()).0, 15);
    let lower = MsgEditValidator { commission_rate: String::new(), ..edit };
    assert_eq!(code(chain.send::<MsgEditValidatorResponse>(&lower).unwrap_err()).0, 17);
}

#[test]
fn queries_page_and_filter() {
    let mut chain = Chain::new(2, &[10, 20, 30]);
    for n in 1..=5 {
        chain.ok(|cx| delegate(cx, &user(n), &op(3), DN * u128::from(n)));
    }
    let of_status = |status: &str| {
        chain
            .query::<QueryValidatorsResponse>(
                "Validators",
                &QueryValidatorsRequest { status: status.into(), pagination: None },
            )
            .map(|r| r.validators.into_iter().map(|v| v.operator_address).collect::<Vec<_>>())
    };
    assert_eq!(of_status("BOND_STATUS_UNBONDED").unwrap(), [op(1).to_operator()]);
    assert_eq!(of_status("BOND_STATUS_BONDED").unwrap(), [op(2).to_operator(), op(3).to_operator()]);
    assert_eq!(of_status("").unwrap().len(), 3);
    assert!(of_status("bonded").unwrap_err().message.contains("invalid validator status bonded"));

    let mut key = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let page: QueryValidatorDelegationsResponse = chain
            .query(
                "ValidatorDelegations",
                &QueryValidatorDelegationsRequest {
                    validator_addr: op(3).to_operator(),
                    pagination: Some(PageRequest { key, limit: 2, ..Default::default() }),
                },
            )
            .unwrap();
        seen.extend(page.delegation_responses.into_iter().map(|d| d.balance.unwrap().amount));
        key = page.pagination.unwrap().next_key;
    }
    assert!(key.is_empty());
    let expected: Vec<String> = [1, 2, 3, 4, 5, 30].map(|n: u128| (n * DN).to_string()).into();
    assert_eq!(seen, expected);

    let mine: QueryDelegatorDelegationsResponse = chain
        .query(
            "DelegatorDelegations",
            &QueryDelegatorDelegationsRequest { delegator_addr: user(2).to_string(), pagination: None },
        )
        .unwrap();
    assert_eq!(mine.delegation_responses[0].delegation.as_ref().unwrap().shares, "2000000000000000000000000");
    let missing = chain.query::<QueryDelegationResponse>(
        "Delegation",
        &QueryDelegationRequest { delegator_addr: user(2).to_string(), validator_addr: op(1).to_operator() },
    );
    assert_eq!(missing.unwrap_err().code, deepnode_core::query::Code::NotFound);
    let pool: QueryPoolResponse = chain.query("Pool", &QueryPoolRequest {}).unwrap();
    let pool = pool.pool.unwrap();
    assert_eq!((pool.bonded_tokens, pool.not_bonded_tokens), ("65000000".into(), "10000000".into()));
    let params: QueryParamsResponse = chain.query("Params", &QueryParamsRequest {}).unwrap();
    assert_eq!(params.params.unwrap().unbonding_time.unwrap().seconds, 1_814_400);
}

#[test]
fn parameters_change_by_governance_within_bounds() {
    let mut chain = Chain::new(5, &[10]);
    let params = chain.ok(|cx| params(cx)).to_proto();
    let mut message = MsgUpdateParams { authority: user(1).to_string(), params: Some(params) };
    assert_eq!(code(chain.send::<MsgUpdateParamsResponse>(&message).unwrap_err()).0, 4);
    message.authority = deepnode_core::authority().to_string();
    for (break_it, why) in [
        (
            (|p| p.max_validators = 0) as fn(&mut proto::Params),
            "params.max_validators is 0, allowed are 1 to 500",
        ),
        (|p| p.max_entries = 0, "params.max_entries is 0"),
        (
            |p| p.unbonding_time.as_mut().unwrap().seconds = 172_799,
            "params.unbonding_time is 172799, at least 172800 is allowed: evidence.max_age_duration 172800 and the longest epoch 0",
        ),
        (|p| p.unbonding_time.as_mut().unwrap().seconds = 0, "params.unbonding_time is 0, allowed are 1 to"),
        (|p| p.bond_denom = "stake".into(), "params.bond_denom \"stake\" must be udn"),
        (|p| p.min_commission_rate = Dec::percent(101).to_wire(), "params.min_commission_rate is 1.01"),
        (|p| p.historical_entries = 1, "params.historical_entries is 1, allowed are 0 to 0"),
    ] {
        let mut broken = message.clone();
        break_it(broken.params.as_mut().unwrap());
        let (_, text) = code(chain.send::<MsgUpdateParamsResponse>(&broken).unwrap_err());
        assert!(text.starts_with(why), "{text}");
    }
    message.params.as_mut().unwrap().max_validators = 7;
    let _: MsgUpdateParamsResponse = chain.send(&message).unwrap();
    assert_eq!(chain.ok(|cx| super::params(cx)).max_validators, 7);
}

/// What validator 1, with 1,000 DN of its own and 1,000 DN of user 1, does around the power that it gets in block 10.
struct Case {
    name: &'static str,
    before: fn(&mut Ctx<'_>) -> Result<()>,
    after: fn(&mut Ctx<'_>) -> Result<()>,
    fault: u64,
    /// DN: burned in all, from the tokens of validators 1 and 2, from unbonding entries.
    burned: [u128; 4],
}

#[test]
fn faults_are_slashed_by_the_stake_that_gave_the_power() {
    let nothing: fn(&mut Ctx<'_>) -> Result<()> = |_| Ok(());
    let undelegate_400: fn(&mut Ctx<'_>) -> Result<()> =
        |cx| undelegate(cx, &user(1), &op(1), 400 * DN).map(drop);
    let redelegate_400: fn(&mut Ctx<'_>) -> Result<()> =
        |cx| redelegate(cx, &user(1), &op(1), &op(2), 400 * DN).map(drop);
    let cases = [
        Case { name: "plain", before: nothing, after: nothing, fault: 12, burned: [100, 100, 0, 0] },
        Case {
            name: "the power of block 10 signs from 12 on; before, it was that of genesis (1,000 DN)",
            before: nothing,
            after: nothing,
            fault: 11,
            burned: [50, 50, 0, 0],
        },
        Case { name: "first block", before: nothing, after: nothing, fault: 1, burned: [50, 50, 0, 0] },
        Case {
            name: "what left before pays nothing",
            before: undelegate_400,
            after: nothing,
            fault: 12,
            burned: [80, 80, 0, 0],
        },
        Case {
            name: "what left after pays its part",
            before: nothing,
            after: undelegate_400,
            fault: 12,
            burned: [100, 80, 0, 20],
        },
        Case {
            name: "what moved after pays at the new validator",
            before: nothing,
            after: redelegate_400,
            fault: 12,
            burned: [100, 80, 20, 0],
        },
        Case {
            name: "what moved and left there pays from what leaves",
            before: nothing,
            after: |cx| {
                redelegate(cx, &user(1), &op(1), &op(2), 400 * DN)?;
                undelegate(cx, &user(1), &op(2), 390 * DN).map(drop)
            },
            fault: 12,
            burned: [100, 80, 0, 20],
        },
        Case {
            name: "what moved and left there in part",
            before: nothing,
            after: |cx| {
                redelegate(cx, &user(1), &op(1), &op(2), 400 * DN)?;
                undelegate(cx, &user(1), &op(2), 5 * DN).map(drop)
            },
            fault: 12,
            burned: [100, 80, 15, 5],
        },
        Case {
            name: "stake that came after does not raise it",
            before: nothing,
            after: |cx| delegate(cx, &user(2), &op(1), 5_000 * DN).map(drop),
            fault: 12,
            burned: [100, 100, 0, 0],
        },
        Case {
            name: "all left: all of it is still liable",
            before: nothing,
            after: |cx| {
                undelegate(cx, &user(1), &op(1), 1_000 * DN)?;
                undelegate(cx, &op(1), &op(1), 1_000 * DN).map(drop)
            },
            fault: 12,
            burned: [100, 0, 0, 100],
        },
        Case {
            name: "at most all: a later slash took nearly everything",
            before: nothing,
            after: |cx| {
                let burned = slash(cx, &op(1), 12, Dec::percent(98))?;
                assert_eq!(burned, 1_960 * DN);
                Ok(())
            },
            fault: 12,
            burned: [40, 40, 0, 0],
        },
        Case {
            name: "no power, no liability",
            before: nothing,
            after: |cx| set_power(cx, &op(1), 0),
            fault: 13,
            burned: [0, 0, 0, 0],
        },
    ];
    for case in cases {
        let mut chain = Chain::new(5, &[1_000, 1_000]);
        chain.to(5);
        chain.ok(|cx| delegate(cx, &user(1), &op(1), 1_000 * DN));
        chain.to(8);
        chain.ok(case.before);
        chain.to(10);
        chain.ok(|cx| set_power(cx, &op(1), 77));
        chain.to(11);
        chain.ok(case.after);
        chain.to(15);
        let snapshot = |chain: &mut Chain| {
            let leaving = chain.ok(|cx| {
                UNBONDINGS.iter(cx, deepnode_core::Walk::FORWARD).try_fold(0, |sum, entry| {
                    Ok::<_, Error>(sum + entry?.1.iter().map(|e| e.balance).sum::<u128>())
                })
            });
            [chain.validator(1).tokens, chain.validator(2).tokens, leaving]
        };
        let before = snapshot(&mut chain);
        let burned = chain.ok(|cx| slash(cx, &op(1), case.fault, Dec::percent(5)));
        let after = snapshot(&mut chain);
        let mut got = vec![burned];
        got.extend(before.iter().zip(after).map(|(b, a)| b - a));
        assert_eq!(got, case.burned.map(|dn| dn * DN), "{}", case.name);
        chain.check();
    }
}

#[test]
fn liability_is_kept_until_evidence_has_expired() {
    let mut chain = Chain::new(5, &[1_000]);
    // Epochs of a twentieth of the unbonding time.
    let mut most = 0;
    for n in 0..60u64 {
        chain.state.block.height += 100;
        chain.state.block.time = chain.state.block.time.plus_secs(21 * DAY / 20);
        chain.ok(|cx| set_power(cx, &op(1), 10 + n));
        let kept = chain.ok(|cx| Ok(LIABILITIES.iter_from(cx, &op(1), deepnode_core::Walk::FORWARD).count()));
        most = most.max(kept);
        // The oldest fault that can still be slashed finds the power that it was signed with.
        let oldest = chain.state.block.height.saturating_sub(2_000).max(3);
        let (since, liability) = chain.ok(|cx| backing(cx, &op(1), oldest)).expect("a record");
        assert!(since <= oldest - 2 && since + 100 > oldest - 2 - 1);
        assert!(liability.power > 0);
    }
    assert!((21..=25).contains(&most), "{most}");
}

#[test]
fn double_signing_costs_stake_and_the_key() {
    let mut chain = Chain::new(5, &[1_000, 1_000]);
    chain.to(10);
    let evidence = |validator, height| Misbehavior {
        kind: MisbehaviorKind::DuplicateVote,
        validator,
        height,
        time: Time(1_700_000_000_000_000_000),
        power: 1,
        total_power: 2,
    };
    // An unknown key, and the same fault twice: neither is an error.
    chain.state.block.misbehavior =
        vec![evidence(Address([9; 20]), 8), evidence(consensus_of(1), 8), evidence(consensus_of(1), 9)];
    chain.next(5);
    assert_eq!(chain.validator(1).tokens, 950 * DN);
    assert!(chain.validator(1).jailed);
    assert_eq!(chain.event("double_sign", "tombstoned").unwrap(), "true");
    assert_eq!(chain.event("slash", "burned_coins").unwrap(), "50000000udn");
    chain.next(5);
    assert_eq!(chain.bonded(), [2]);
    // The key is nobody's any more, even when its validator is gone.
    chain.ok(|cx| undelegate(cx, &op(1), &op(1), 950 * DN));
    chain.next(22 * DAY);
    chain.next(5);
    assert!(chain.ok(|cx| validator(cx, &op(1))).is_none());
    assert_eq!(code(chain.send::<MsgCreateValidatorResponse>(&create_message(3, 1, DN)).unwrap_err()).0, 5);

    // The last validator pays and stays.
    let now = chain.state.block.height;
    let time = chain.state.block.time;
    chain.state.block.misbehavior = vec![Misbehavior { time, ..evidence(consensus_of(2), now) }];
    chain.next(5);
    assert_eq!((chain.validator(2).tokens, chain.validator(2).jailed), (950 * DN, false));
    assert_eq!(chain.event("double_sign", "tombstoned").unwrap(), "false");
    chain.next(5);
    assert_eq!(chain.bonded(), [2]);
    chain.check();
}

#[derive(Clone, Debug)]
enum Op {
    Delegate(u8, u8, u128),
    Undelegate(u8, u8, u128),
    Redelegate(u8, u8, u8, u128),
    Cancel(u8, u8, u64, u128),
    Slash(u8, u64, u64),
    Jail(u8),
    Unjail(u8),
    Power(u8, u64),
    Next(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let u = 1u8..4;
    let v = 1u8..5;
    let amount = prop_oneof![1u128..50, 1u128..5_000_000, Just(DN)];
    let op = prop_oneof![
        4 => (u.clone(), v.clone(), amount.clone()).prop_map(|(u, v, a)| Op::Delegate(u, v, a)),
        4 => (u.clone(), v.clone(), amount.clone()).prop_map(|(u, v, a)| Op::Undelegate(u, v, a)),
        2 => (u.clone(), v.clone(), v.clone(), amount.clone()).prop_map(|(u, f, t, a)| Op::Redelegate(u, f, t, a)),
        1 => (u, v.clone(), 0u64..20, amount).prop_map(|(u, v, h, a)| Op::Cancel(u, v, h, a)),
        2 => (v.clone(), 0u64..20, 0u64..=100).prop_map(|(v, h, f)| Op::Slash(v, h, f)),
        1 => v.clone().prop_map(Op::Jail),
        1 => v.clone().prop_map(Op::Unjail),
        1 => (v, 1u64..100).prop_map(|(v, p)| Op::Power(v, p)),
        4 => prop_oneof![Just(5), Just(3 * DAY), Just(22 * DAY)].prop_map(Op::Next),
    ];
    proptest::collection::vec(op, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens: pools, shares, indices and powers agree, no udn appears, and what disappears was burned.
    #[test]
    fn tokens_and_shares_are_conserved(ops in ops()) {
        let mut chain = Chain::new(2, &[3, 2, 1, 1]);
        let everybody: Vec<Address> = (1..=9).flat_map(|n| [user(n), op(n)])
            .chain([BONDED_POOL, NOT_BONDED_POOL].map(Address::module)).collect();
        let mut supply: u128 = everybody.iter().map(|a| chain.balance(*a)).sum();
        for step in ops {
            let ago = |chain: &Chain, blocks: u64| chain.state.block.height.saturating_sub(blocks);
            let result = match step.clone() {
                Op::Delegate(u, v, a) => chain.run(|cx| delegate(cx, &user(u), &op(v), a).map(|_| 0)),
                Op::Undelegate(u, v, a) => chain.run(|cx| {
                    let returned = undelegate(cx, &user(u), &op(v), a)?.1;
                    assert!(returned <= a);
                    Ok(0)
                }),
                Op::Redelegate(u, f, t, a) => chain.run(|cx| redelegate(cx, &user(u), &op(f), &op(t), a).map(|_| 0)),
                Op::Cancel(u, v, h, a) => {
                    let height = ago(&chain, h);
                    chain.run(|cx| cancel_unbonding(cx, &user(u), &op(v), height, a).map(|_| 0))
                }
                Op::Slash(v, h, f) => {
                    let height = ago(&chain, h);
                    chain.run(|cx| slash(cx, &op(v), height, Dec::percent(f)))
                }
                Op::Jail(v) => chain.run(|cx| jail(cx, &op(v)).map(|_| 0)),
                Op::Unjail(v) => chain.run(|cx| unjail(cx, &op(v)).map(|_| 0)),
                Op::Power(v, p) => chain.run(|cx| {
                    if validator(cx, &op(v))?.is_some_and(|v| v.is_bonded() && !v.jailed) {
                        set_power(cx, &op(v), p)?;
                    }
                    Ok(0)
                }),
                Op::Next(seconds) => {
                    chain.next(seconds);
                    Ok(0)
                }
            };
            match result {
                Ok(burned) => supply -= burned,
                Err(Error::Tx(_)) => {}
                Err(e) => prop_assert!(false, "{step:?}: {e}"),
            }
            chain.check();
            let now: u128 = everybody.iter().map(|a| chain.balance(*a)).sum();
            prop_assert_eq!(now, supply, "{:?}", step);
            let standing = chain.bonded();
            prop_assert!((1..=2).contains(&standing.len()), "{:?}", standing);
        }
    }

    /// Without slashes nobody gains or loses more than the udn of a rounding.
    #[test]
    fn a_round_trip_returns_what_was_delegated(first in 1u128..10_000_000, others in proptest::collection::vec(1u128..10_000_000, 0..5)) {
        let mut chain = Chain::new(2, &[3]);
        // An awkward exchange rate first.
        chain.ok(|cx| slash(cx, &op(1), 1, Dec::ppm(333_333)));
        chain.ok(|cx| delegate(cx, &user(1), &op(1), first));
        for (n, amount) in (2..).zip(&others) {
            chain.ok(|cx| delegate(cx, &user(n), &op(1), *amount));
        }
        let shares = chain.ok(|cx| delegation(cx, &user(1), &op(1))).unwrap();
        let worth = chain.validator(1).tokens_from_shares(shares).unwrap();
        prop_assert!(worth == first || worth == first - 1, "{} {}", worth, first);
        if worth > 0 {
            let (_, returned) = chain.ok(|cx| undelegate(cx, &user(1), &op(1), worth));
            prop_assert!(returned == worth || returned == worth - 1 , "{} {}", returned, worth);
        }
        chain.check();
    }
}

#[test]
fn messages_leave_room_in_the_usual_gas_limits() {
    let mut chain = Chain::new(5, &[10, 20]);
    let mut used = |f: fn(&mut Ctx<'_>) -> Result<()>| {
        chain.ok(|cx| {
            f(cx)?;
            Ok(cx.gas().used())
        })
    };
    // Wallets ask 250,000 for a delegation: signatures, fees and rewards come on top.
    let first = used(|cx| delegate(cx, &user(1), &op(1), 5 * DN).map(drop));
    let again = used(|cx| delegate(cx, &user(1), &op(1), 5 * DN).map(drop));
    let undelegated = used(|cx| undelegate(cx, &user(1), &op(1), DN).map(drop));
    let redelegated = used(|cx| redelegate(cx, &user(1), &op(1), &op(2), DN).map(drop));
    assert!(again < first && first < 100_000, "{first} {again}");
    assert!(undelegated < 120_000, "{undelegated}");
    assert!(redelegated < 150_000, "{redelegated}");
}
