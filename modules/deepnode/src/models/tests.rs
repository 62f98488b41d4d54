use deepnode_core::testing::TestState;
use deepnode_core::{authority, merkle, Messages};
use deepnode_cosmos::{auth::AuthModule, bank::BankModule};
use deepnode_proto::deepnode::models::v1::{
    self as proto, ModelStatus, MsgCommitModel, MsgRegisterModel, MsgSetScored, MsgSetStatus,
    MsgUpdateParams, QueryModelRequest, QueryModelResponse,
};
use deepnode_proto::{Message, Name};

use super::*;

const OWNER: Address = Address([1; 20]);
const OTHER: Address = Address([2; 20]);
const SALT: &[u8] = b"salt";

/// A manifest's leaves with the small architecture and otherwise arbitrary contents.
fn leaves(tag: u8) -> Vec<Vec<u8>> {
    let count = small().manifest_leaves();
    (0..count).map(|n| if n == 0 { small().encode() } else { vec![tag, n as u8] }).collect()
}

fn id(tag: u8) -> ModelId {
    merkle::root(&leaves(tag))
}

fn registration(tag: u8) -> MsgRegisterModel {
    let leaves = leaves(tag);
    MsgRegisterModel {
        owner: OWNER.to_string(),
        model_id: id(tag).to_vec(),
        salt: SALT.to_vec(),
        name: format!("model-{tag}"),
        licence: "Apache-2.0".into(),
        architecture: leaves[0].clone(),
        architecture_path: merkle::path(&leaves, 0).iter().map(|sibling| sibling.to_vec()).collect(),
        manifest_leaves: leaves.len() as u32,
        royalty_ppm: 100_000,
        parent: Vec::new(),
        parent_part_ppm: 0,
    }
}

struct Chain {
    state: TestState,
    messages: Messages,
}

impl Chain {
    fn new() -> Chain {
        Chain::from(&ModelsModule.default_genesis())
    }

    fn from(genesis: &serde_json::Value) -> Chain {
        let mut state = TestState::new();
        state
            .run(|cx| {
                AuthModule.init_genesis(cx, &AuthModule.default_genesis())?;
                BankModule.init_genesis(cx, &BankModule.default_genesis())?;
                ModelsModule.init_genesis(cx, genesis)?;
                bank::mint_udn(cx, &OWNER, 1_000_000_000)
            })
            .unwrap();
        let mut messages = Messages::default();
        ModelsModule.messages(&mut messages);
        Chain { state, messages }
    }

    fn send<M: Message + Name>(&mut self, msg: &M) -> std::result::Result<(), String> {
        let handler = self.messages.get(&M::type_url()).unwrap();
        let result = self.state.run(|cx| handler.run(cx, &msg.encode_to_vec()));
        self.run(|cx| ModelsModule.invariants(cx));
        result.map(|_| ()).map_err(|e| e.to_string())
    }

    fn run<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> T {
        self.state.run(f).unwrap()
    }

    fn commit(&mut self, tag: u8) {
        let commitment = commitment(&id(tag), &OWNER, SALT).to_vec();
        self.send(&MsgCommitModel { owner: OWNER.to_string(), commitment }).unwrap();
    }

    /// Commits, waits and registers.
    fn register(&mut self, msg: &MsgRegisterModel, tag: u8) -> std::result::Result<(), String> {
        self.commit(tag);
        self.state.block.height += 2;
        self.send(msg)
    }

    fn active(&mut self, tag: u8) {
        self.register(&registration(tag), tag).unwrap();
        self.run(|cx| activate(cx, &id(tag), [7; 32]));
    }

    fn model(&self, tag: u8) -> Model {
        self.state.query(|cx| existing(cx.state, &id(tag))).unwrap()
    }

    fn ask(&self, text: &str) -> std::result::Result<proto::Model, String> {
        let mut queries = Queries::default();
        ModelsModule.queries(&mut queries);
        let request = QueryModelRequest { id: text.into() }.encode_to_vec();
        let answer = self.state.query(|cx| queries.run("/deepnode.models.v1.Query/Model", cx, &request));
        answer
            .map(|bytes| QueryModelResponse::decode(bytes.as_slice()).unwrap().model.unwrap())
            .map_err(|status| status.message)
    }
}

#[test]
fn a_model_is_committed_registered_verified_and_found() {
    let mut chain = Chain::new();
    chain.register(&registration(1), 1).unwrap();
    let model = chain.model(1);
    assert_eq!(
        (model.status, model.class.as_str(), model.weights),
        (Status::Pending, "llm-300m", 106_168_320)
    );
    assert_eq!(chain.run(|cx| bank::balance_udn(cx, &account())), 100_000_000);
    assert_eq!(chain.run(|cx| pending(cx, 5)), [id(1)]);
    assert!(chain.ask("model-1").is_err(), "not found by name before it is active");

    chain.run(|cx| vector_drawn(cx, &id(1)));
    assert!(chain.run(|cx| pending(cx, 5)).is_empty());
    assert_eq!(chain.run(|cx| activate(cx, &id(1), [7; 32])), 100_000_000);
    assert_eq!(chain.run(|cx| bank::balance_udn(cx, &Address::module("audits"))), 100_000_000);
    chain.run(|cx| record_usage(cx, &id(1), 270));
    chain.run(|cx| ModelsModule.invariants(cx));

    let shown = chain.ask("model-1").unwrap();
    assert_eq!(shown, chain.ask(&hex::encode(id(1))).unwrap());
    assert_eq!((shown.status(), shown.tasks, shown.cu), (ModelStatus::Active, 1, 270));
    assert_eq!(shown.vector_root, [7; 32]);
    let refused = chain.register(&registration(1), 1).unwrap_err();
    assert!(refused.contains("is registered"), "{refused}");
}

#[test]
fn nobody_registers_without_an_own_commitment_in_time() {
    let mut chain = Chain::new();
    assert!(chain.send(&registration(1)).unwrap_err().contains("MsgCommitModel comes first"));
    chain.commit(1);
    let early = chain.send(&registration(1)).unwrap_err();
    assert!(early.contains("committed at height 1, may be registered from height 3, now is 1"), "{early}");
    chain.state.block.height += 2;
    let stolen = MsgRegisterModel { owner: OTHER.to_string(), ..registration(1) };
    assert!(chain.send(&stolen).unwrap_err().contains("no commitment"));
    chain.state.block.height += COMMITMENT_BLOCKS;
    chain.run(|cx| ModelsModule.end_block(cx));
    assert!(chain.send(&registration(1)).unwrap_err().contains("no commitment"), "too late");
}

#[test]
fn what_does_not_follow_from_the_manifest_is_refused() {
    let mut chain = Chain::new();
    chain.commit(1);
    chain.state.block.height += 2;
    let mut refused = |change: fn(&mut MsgRegisterModel), expected: &str| {
        let mut msg = registration(1);
        change(&mut msg);
        let error = chain.send(&msg).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    refused(|m| m.model_id.truncate(31), "model_id has 31 bytes, must have 32");
    refused(|m| m.architecture[4] = 29, "manifest_leaves is 275, allowed are 266 to 266");
    refused(|m| m.architecture[9] = 3, "architecture_path does not lead");
    refused(|m| m.architecture_path.reverse(), "architecture_path does not lead");
    refused(|m| m.manifest_leaves += 1, "manifest_leaves is 276, allowed are 275 to 275");
    refused(|m| m.royalty_ppm = 200_001, "royalty_ppm is 200001, allowed are 0 to 200000");
    refused(|m| m.parent_part_ppm = 1, "parent_part_ppm is 1, allowed are 0 to 0");
    refused(|m| m.parent = vec![9; 32], "not found");
    refused(|m| m.name = "no spaces".into(), "must be letters, digits or ._:/-");
    refused(|m| m.name = "ab".repeat(32), "not the hex of an id");
    refused(|m| m.salt.clear(), "length of salt is 0, allowed are 1 to 64");
    chain.send(&registration(1)).unwrap();
}

#[test]
fn chains_of_parents_end() {
    let mut chain = Chain::new();
    chain.active(0);
    for tag in 1..=5 {
        let msg = MsgRegisterModel {
            parent: id(tag - 1).to_vec(),
            parent_part_ppm: 500_000,
            royalty_ppm: 0,
            ..registration(tag)
        };
        let result = chain.register(&msg, tag);
        if tag == 5 {
            assert!(result.unwrap_err().contains("depth of parents is 5, allowed are 0 to 4"));
            break;
        }
        result.unwrap();
        assert_eq!(chain.model(tag).depth, u32::from(tag));
        chain.run(|cx| activate(cx, &id(tag), [0; 32]));
    }
}

#[test]
fn three_draws_without_agreement_reject_and_it_may_come_again() {
    let mut chain = Chain::new();
    chain.register(&registration(1), 1).unwrap();
    chain.register(&registration(2), 2).unwrap();
    assert_eq!(chain.run(|cx| pending(cx, 1)), [id(1)]);
    for failed in 1..=3 {
        chain.run(|cx| vector_drawn(cx, &id(1)));
        assert_eq!(chain.run(|cx| vector_failed(cx, &id(1))), failed == 3);
        chain.run(|cx| ModelsModule.invariants(cx));
    }
    assert_eq!(chain.model(1).status, Status::Rejected);
    assert_eq!(chain.run(|cx| pending(cx, 5)), [id(2)]);
    chain.register(&registration(1), 1).unwrap();
    assert_eq!((chain.model(1).status, chain.model(1).failed_draws), (Status::Pending, 0));
}

#[test]
fn owners_deprecate_governance_delists_and_scores() {
    let mut chain = Chain::new();
    chain.active(1);
    let status = |signer: Address, status: ModelStatus| MsgSetStatus {
        signer: signer.to_string(),
        model_id: id(1).to_vec(),
        status: status.into(),
    };
    let scored = |authority: Address, scored| MsgSetScored {
        authority: authority.to_string(),
        model_id: id(1).to_vec(),
        scored,
    };
    assert!(chain.send(&scored(OWNER, true)).unwrap_err().contains("governance account"));
    chain.send(&scored(authority(), true)).unwrap();
    assert!(chain.model(1).scored);
    assert!(chain.send(&status(OTHER, ModelStatus::Deprecated)).unwrap_err().contains("must be"));
    assert!(chain.send(&status(OWNER, ModelStatus::Delisted)).unwrap_err().contains("must be"));
    assert!(chain.send(&status(OWNER, ModelStatus::Rejected)).unwrap_err().contains("cannot become"));
    chain.send(&status(OWNER, ModelStatus::Deprecated)).unwrap();
    assert!(!chain.model(1).scored && chain.ask("model-1").is_err());
    assert!(chain.send(&scored(authority(), true)).unwrap_err().contains("must be active"));
    chain.send(&status(authority(), ModelStatus::Delisted)).unwrap();
    chain.send(&status(authority(), ModelStatus::Active)).unwrap();
    assert!(chain.ask("model-1").is_ok());
}

#[test]
fn a_name_of_two_models_names_none() {
    let mut chain = Chain::new();
    chain.active(1);
    chain.register(&MsgRegisterModel { name: "model-1".into(), ..registration(2) }, 2).unwrap();
    assert!(chain.ask("model-1").is_ok(), "a pending model takes no name");
    chain.run(|cx| activate(cx, &id(2), [0; 32]));
    let error = chain.ask("model-1").unwrap_err();
    assert!(error.contains("more than one model") && error.contains(&hex::encode(id(2))), "{error}");
}

#[test]
fn the_class_table_grows_and_prices_stay() {
    let mut chain = Chain::new();
    chain.run(|cx| set_price(cx, "llm-300m", Dec::percent(1_500)));
    let (params, mut rows) =
        chain.state.query(|cx| (PARAMS.load(cx.state).unwrap(), classes(cx.state).unwrap()));
    let mut send = |rows: &[Class]| {
        let params = Some(params.to_proto(rows));
        chain.send(&MsgUpdateParams { authority: authority().to_string(), params })
    };
    assert!(send(&rows[1..]).unwrap_err().contains("params.classes must keep \"llm-300m\""));
    rows[0].price = Dec::ONE;
    rows[0].speed = 77;
    let first = Class { name: "llm-30m".into(), max_weights: 30_000_000, ..rows[0].clone() };
    let unreachable = [rows.clone(), vec![first.clone()]].concat();
    assert!(send(&unreachable).unwrap_err().contains("is not above that of"));
    rows.insert(0, first);
    send(&rows).unwrap();
    let now = chain.state.query(|cx| classes(cx.state)).unwrap();
    assert_eq!((now[0].price, now[1].price, now[1].speed), (Dec::ONE, Dec::percent(1_500), 77));
}

#[test]
fn cost_follows_from_the_architecture() {
    assert_eq!(cu(&small(), 256, 256), Ok(132_042));
    assert_eq!(cu(&small(), 1, 1), Ok(270));
    assert!(cu(&small(), 8_192, 1).is_ok());
    assert!(cu(&small(), 8_192, 2)
        .unwrap_err()
        .to_string()
        .contains("8193 positions, allowed are 1 to 8192"));
    assert!(cu(&small(), 0, 5).is_err());
}

#[test]
fn genesis_lists_models_and_export_is_its_inverse() {
    let mut chain = Chain::new();
    chain.active(1);
    let child = MsgRegisterModel { parent: id(1).to_vec(), parent_part_ppm: 7, ..registration(2) };
    chain.register(&child, 2).unwrap();
    chain.commit(3);
    chain.run(|cx| record_usage(cx, &id(1), 5));
    chain.run(|cx| set_price(cx, "llm-300m", Dec::percent(1_500)));
    let exported = chain.state.query(|cx| ModelsModule.export_genesis(cx.state)).unwrap();
    let mut other = Chain::from(&exported);
    other.run(|cx| {
        bank::send_udn(cx, &OWNER, &account(), 100_000_000)?;
        ModelsModule.invariants(cx)
    });
    assert_eq!(other.state.query(|cx| ModelsModule.export_genesis(cx.state)).unwrap(), exported);

    let listed = genesis::ModelJson {
        id: hex::encode(id(4)),
        owner: OWNER,
        name: "listed".into(),
        architecture: hex::encode(small().encode()),
        status: "MODEL_STATUS_ACTIVE".into(),
        scored: true,
        ..genesis::ModelJson::default()
    };
    let mut section = genesis::Genesis::new(&Params::default(), Class::localnet());
    section.models.push(listed);
    let shown = Chain::from(&serde_json::json!(section)).ask("listed").unwrap();
    assert_eq!((shown.status(), shown.scored, shown.class.as_str()), (ModelStatus::Active, true, "llm-300m"));
}
