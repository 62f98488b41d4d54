use deepnode_core::testing::TestState;
use deepnode_core::{authority, Messages, Module, Queries, Time};
use deepnode_proto::deepnode::beacon::v1::{
    self as proto, MsgUpdateParams, QueryEpochResponse, QueryValueRequest, QueryValueResponse,
};
use deepnode_proto::Message;

use super::*;

/// Starts a chain whose epochs have 3 blocks or 100 seconds.
fn chain() -> TestState {
    let mut state = TestState::new();
    let genesis = genesis::Genesis::new(&Params { blocks: 3, max_duration: 100 });
    state.run(|cx| BeaconModule.init_genesis(cx, &serde_json::json!(genesis))).unwrap();
    state
}

/// Executes the block at `height` and `secs`; its (epoch, whether it is the epoch's last).
fn block(state: &mut TestState, height: u64, secs: u64) -> (u64, bool) {
    state.block.height = height;
    state.block.time = Time(secs * 1_000_000_000);
    state.block.hash = *blake3::hash(&height.to_le_bytes()).as_bytes();
    state
        .run(|cx| {
            BeaconModule.pre_block(cx)?;
            BeaconModule.invariants(cx)?;
            Ok((epoch(cx)?.number, ends_epoch(cx)?))
        })
        .unwrap()
}

#[test]
fn epochs_end_by_blocks_or_by_time() {
    let mut state = chain();
    let seen: Vec<_> = [(1, 0), (2, 10), (3, 20), (4, 30), (5, 129), (6, 130), (7, 1000), (8, 2000)]
        .map(|(height, secs)| block(&mut state, height, secs))
        .into();
    let expected =
        [(1, false), (1, false), (1, true), (2, false), (2, false), (2, true), (3, false), (3, true)];
    assert_eq!(seen, expected);
    let start = state.query(|cx| epoch(cx.state)).unwrap();
    assert_eq!((start.start_height, start.start_time.secs()), (7, 1000));
}

#[test]
fn values_follow_from_block_hashes_and_fade() {
    let mut state = chain();
    block(&mut state, 1, 0);
    let first = state.query(|cx| value(cx.state, 1)).unwrap().unwrap();
    let expected = blake3::hash(
        &[
            blake3::hash(b"test-1").as_bytes().as_slice(),
            &1u64.to_le_bytes(),
            blake3::hash(&1u64.to_le_bytes()).as_bytes(),
        ]
        .concat(),
    );
    assert_eq!(first, *expected.as_bytes());
    assert_eq!(state.query(|cx| value(cx.state, 2)).unwrap(), None, "the future is not known");
    for height in 2..=KEPT + 10 {
        block(&mut state, height, height);
    }
    let kept = |height| state.query(|cx| value(cx.state, height)).unwrap().is_some();
    assert!(!kept(9) && kept(10) && kept(KEPT + 10));
}

#[test]
fn a_restart_from_an_export_goes_on() {
    let mut state = chain();
    for height in 1..=4 {
        block(&mut state, height, height);
    }
    let exported = state.query(|cx| BeaconModule.export_genesis(cx.state)).unwrap();
    let mut other = TestState::new();
    other.run(|cx| BeaconModule.init_genesis(cx, &exported)).unwrap();
    assert_eq!(other.query(|cx| BeaconModule.export_genesis(cx.state)).unwrap(), exported);
    assert_eq!(block(&mut other, 5, 5), block(&mut state, 5, 5));
    assert_eq!(other.changes, state.changes);
}

#[test]
fn queries_tell_the_scheme_and_the_clock() {
    let mut state = chain();
    for height in 1..=4 {
        block(&mut state, height, height);
    }
    let mut queries = Queries::default();
    BeaconModule.queries(&mut queries);
    let ask = |path: &str, request: Vec<u8>| {
        state.query(|cx| queries.run(&format!("/deepnode.beacon.v1.Query/{path}"), cx, &request))
    };
    let latest = ask("Value", QueryValueRequest { height: 0 }.encode_to_vec()).unwrap();
    let latest = QueryValueResponse::decode(latest.as_slice()).unwrap();
    assert_eq!((latest.height, latest.value.len(), latest.devnet_only), (4, 32, true));
    let refused = ask("Value", QueryValueRequest { height: 5 }.encode_to_vec()).unwrap_err();
    assert_eq!(refused.message, "no beacon value of height 5: heights 1 to 4 are kept");
    let epoch = ask("Epoch", Vec::new()).unwrap();
    assert_eq!(QueryEpochResponse::decode(epoch.as_slice()).unwrap().epoch.unwrap().number, 2);
}

#[test]
fn only_governance_sets_the_length_of_epochs() {
    let mut state = chain();
    let mut messages = Messages::default();
    BeaconModule.messages(&mut messages);
    let mut send = |authority: String, epoch_blocks| {
        let params = proto::Params { epoch_blocks, max_epoch_seconds: 100 };
        let msg = MsgUpdateParams { authority, params: Some(params) };
        let handler = messages.get("/deepnode.beacon.v1.MsgUpdateParams").unwrap();
        state.run(|cx| handler.run(cx, &msg.encode_to_vec())).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(send("dn1someone".into(), 5).unwrap_err().contains("must be the governance account"));
    assert!(send(authority().to_string(), 1)
        .unwrap_err()
        .contains("epoch.blocks is 1, allowed are 2 to 1000000"));
    send(authority().to_string(), 5).unwrap();
    assert_eq!(state.query(|cx| params(cx.state)).unwrap().blocks, 5);
}

/// Powers stand for an epoch: the stake that gave them must answer until evidence has expired. Whichever of the three
/// parameters would break that is refused, at genesis and in updates.
#[test]
fn stake_outlasts_an_epoch_and_the_age_of_evidence() {
    use deepnode_cosmos::{auth::AuthModule, bank::BankModule, consensus, staking::StakingModule};
    use deepnode_proto::cosmos::consensus::v1::MsgUpdateParams as UpdateConsensus;
    use deepnode_proto::cosmos::staking::v1beta1::MsgUpdateParams as UpdateStaking;

    const HOUR: u64 = 3_600;
    let mut state = TestState::new();
    state
        .run(|cx| {
            consensus::init_chain(cx, 1, 1, &consensus::Params::default())?;
            for module in [&AuthModule as &dyn Module, &BankModule, &StakingModule] {
                module.init_genesis(cx, &module.default_genesis())?;
            }
            Ok(())
        })
        .unwrap();
    let genesis =
        |max_duration| serde_json::json!(genesis::Genesis::new(&Params { blocks: 3, max_duration }));
    // Default: stake leaves after 504 hours, evidence expires after 48.
    let refused = state.run(|cx| BeaconModule.init_genesis(cx, &genesis(456 * HOUR + 1))).unwrap_err();
    let bound =
        "params.max_epoch_seconds is 1641601, at most 1641600 is allowed: staking's unbonding_time less \
                 evidence.max_age_duration";
    assert!(refused.to_string().contains(bound), "{refused}");
    state.run(|cx| BeaconModule.init_genesis(cx, &genesis(2 * HOUR))).unwrap();

    let mut messages = Messages::default();
    for module in [&BeaconModule as &dyn Module, &StakingModule, &consensus::ConsensusModule] {
        module.messages(messages.begin(module.name()));
    }
    let mut send = |url: String, bytes: Vec<u8>| {
        let handler = messages.get(&url).unwrap();
        state.run(|cx| handler.run(cx, &bytes)).map(|_| ()).map_err(|e| e.to_string())
    };
    let authority = authority().to_string();
    let mut epoch = |seconds| {
        let params = Some(proto::Params { epoch_blocks: 3, max_epoch_seconds: seconds });
        let msg = MsgUpdateParams { authority: authority.clone(), params };
        send("/deepnode.beacon.v1.MsgUpdateParams".into(), msg.encode_to_vec())
    };
    assert!(epoch(456 * HOUR + 1).unwrap_err().contains(bound));
    epoch(456 * HOUR).unwrap();
    epoch(6 * HOUR).unwrap();
    let stay = |seconds: u64| {
        let params = deepnode_proto::cosmos::staking::v1beta1::Params {
            unbonding_time: Some(deepnode_proto::Duration { seconds: seconds as i64, nanos: 0 }),
            max_validators: 100,
            max_entries: 7,
            bond_denom: "udn".into(),
            ..Default::default()
        };
        UpdateStaking { authority: authority.clone(), params: Some(params) }
    };
    let staking_url = "/cosmos.staking.v1beta1.MsgUpdateParams";
    let refused = send(staking_url.into(), stay(54 * HOUR - 1).encode_to_vec()).unwrap_err();
    let bound = "params.unbonding_time is 194399, at least 194400 is allowed: evidence.max_age_duration 172800 and the \
                 longest epoch 21600";
    assert!(refused.contains(bound), "{refused}");
    send(staking_url.into(), stay(54 * HOUR).encode_to_vec()).unwrap();
    let mut params = consensus::Params::default();
    params.evidence.max_age_duration += 1;
    let full = params.to_proto(0);
    let msg = UpdateConsensus {
        authority: authority.clone(),
        block: full.block,
        evidence: full.evidence,
        validator: full.validator,
        abci: None,
    };
    let refused = send("/cosmos.consensus.v1.MsgUpdateParams".into(), msg.encode_to_vec()).unwrap_err();
    assert!(
        refused.contains("evidence.max_age_duration is 172800000000001 ns, at most 172800 s"),
        "{refused}"
    );
}
