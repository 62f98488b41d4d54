use super::params::{Block, MAX_BLOCK_BYTES};
use super::*;
use deepnode_core::testing::TestState;
use deepnode_core::{authority, Address};
use deepnode_proto::cosmos::consensus::v1::{MsgUpdateParams, QueryParamsRequest, QueryParamsResponse};
use deepnode_proto::tendermint_proto::v0_38::types::AbciParams;
use prost::Message;

fn chain() -> TestState {
    let mut chain = TestState::new();
    chain
        .run(|cx| {
            init_chain(cx, 5, 3, &Params::default())?;
            ConsensusModule.init_genesis(cx, &ConsensusModule.default_genesis())
        })
        .unwrap();
    chain.block.height = 10;
    chain
}

fn update(new: &Params) -> MsgUpdateParams {
    let full = new.to_proto(0);
    MsgUpdateParams {
        authority: authority().to_string(),
        block: full.block,
        evidence: full.evidence,
        validator: full.validator,
        abci: full.abci,
    }
}

#[test]
fn what_init_chain_brings_is_kept() {
    let chain = chain();
    chain.query(|q| {
        assert_eq!(chain_id(q.state).unwrap(), "test-1");
        assert_eq!((initial_height(q.state).unwrap(), app_version(q.state).unwrap()), (5, 3));
        assert_eq!(evidence_age(q.state).unwrap(), (100_000, 172_800));
        let mut queries = Queries::default();
        ConsensusModule.queries(&mut queries);
        let request = QueryParamsRequest {}.encode_to_vec();
        let answer = queries.run("/cosmos.consensus.v1.Query/Params", q, &request).unwrap();
        let answer = QueryParamsResponse::decode(answer.as_slice()).unwrap().params.unwrap();
        assert_eq!(answer, Params::default().to_proto(3));
        assert_eq!(Params::from_proto(&answer).unwrap(), Params::default());
        ConsensusModule.invariants(q.state).unwrap();
    });
    let mut empty = TestState::new();
    assert!(empty.run(|cx| ConsensusModule.init_genesis(cx, &serde_json::json!({}))).is_err());
}

#[test]
fn an_update_that_would_stop_cometbft_is_refused() {
    let good = update(&Params::default());
    type Change = fn(&mut MsgUpdateParams);
    let cases: Vec<(&str, Change)> = vec![
        ("authority \"dn1", |m| m.authority = Address::module("x").to_string()),
        ("block is missing", |m| m.block = None),
        ("evidence is missing", |m| m.evidence = None),
        ("validator is missing", |m| m.validator = None),
        ("block.max_bytes is -1", |m| m.block.as_mut().unwrap().max_bytes = -1),
        ("block.max_bytes is 0, allowed are 1 to 104857600", |m| m.block.as_mut().unwrap().max_bytes = 0),
        ("block.max_bytes is 104857601, allowed", |m| m.block.as_mut().unwrap().max_bytes = 104_857_601),
        ("block.max_gas is -1", |m| m.block.as_mut().unwrap().max_gas = -1),
        ("block.max_gas is 0", |m| m.block.as_mut().unwrap().max_gas = 0),
        ("evidence.max_age_num_blocks is 0", |m| m.evidence.as_mut().unwrap().max_age_num_blocks = 0),
        ("evidence.max_age_duration is missing", |m| m.evidence.as_mut().unwrap().max_age_duration = None),
        ("evidence.max_age_duration is 0", |m| {
            m.evidence.as_mut().unwrap().max_age_duration.as_mut().unwrap().seconds = 0
        }),
        ("evidence.max_bytes is 4194305, allowed are 0 to 4194304", |m| {
            m.evidence.as_mut().unwrap().max_bytes = (4 << 20) + 1
        }),
        ("validator.pub_key_types is [secp256k1]", |m| {
            m.validator.as_mut().unwrap().pub_key_types = vec!["secp256k1".into()]
        }),
        ("validator.pub_key_types is []", |m| m.validator.as_mut().unwrap().pub_key_types.clear()),
        ("abci.vote_extensions_enable_height is 10, it must be above the height 10", |m| {
            m.abci = Some(AbciParams { vote_extensions_enable_height: 10 })
        }),
    ];
    for (expected, change) in cases {
        let mut chain = chain();
        let mut msg = good.clone();
        change(&mut msg);
        let error = chain.run(|cx| msgs::update_params(cx, msg)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}, expected {expected}");
        assert_eq!(chain.run(|cx| params(cx)).unwrap(), Params::default());
    }
}

#[test]
fn only_changed_parts_are_told() {
    let mut chain = chain();
    let old = Params::default();
    assert_eq!(old.changes(&old), None);
    let new = Params { block: Block { max_bytes: MAX_BLOCK_BYTES, max_gas: 7 }, ..old.clone() };
    chain.run(|cx| msgs::update_params(cx, update(&new))).unwrap();
    assert_eq!(chain.run(|cx| params(cx)).unwrap(), new);
    let told = old.changes(&new).unwrap();
    assert_eq!(told.block.unwrap().max_gas, 7);
    assert!(
        told.evidence.is_none() && told.validator.is_none() && told.version.is_none() && told.abci.is_none()
    );
}

#[test]
fn vote_extensions_go_on_once_and_stay() {
    let mut chain = chain();
    let at = |height| Params { vote_extensions_enable_height: height, ..Params::default() };
    let set = |chain: &mut TestState, new: &Params| chain.run(|cx| msgs::update_params(cx, update(new)));
    set(&mut chain, &at(20)).unwrap();
    set(&mut chain, &at(30)).unwrap();
    assert!(set(&mut chain, &at(0)).unwrap_err().to_string().contains("cannot be unset"));
    let silent = MsgUpdateParams { abci: None, ..update(&at(0)) };
    chain.run(|cx| msgs::update_params(cx, silent)).unwrap();
    assert_eq!(chain.run(|cx| params(cx)).unwrap(), at(30));
    chain.block.height = 30;
    assert!(set(&mut chain, &at(40)).unwrap_err().to_string().contains("already on"));
}
