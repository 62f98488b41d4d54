//! What is refused, by whom first, and in which words: code, codespace and gas of a failed transaction are hashed into
//! the next header.

use bytes::Bytes;
use deepnode_core::Dec;
use deepnode_proto::cosmos::bank::v1beta1::MsgSend;
use deepnode_proto::cosmos::gov::v1;
use deepnode_proto::cosmos::staking::v1beta1::*;
use deepnode_proto::deepnode::audits::v1::{MsgCommitVerdict, MsgRegisterAuditor, MsgRevealVerdict};
use deepnode_proto::deepnode::models::v1::{MsgRegisterModel, MsgSetScored};
use deepnode_proto::deepnode::tasks::v1::*;
use deepnode_proto::deepnode::workers::v1::*;
use deepnode_proto::{Any, Timestamp};
use deepnode_tx::{SigningKey, TxBuilder};

use super::script::{request, udn};
use super::{of, Story};
use crate::chain::{DN, FEE, GAS};
use crate::world::{architecture, key, Manifest, CLASS};

pub fn tell(story: &mut Story) {
    before_messages(story);
    of_cosmos(story);
    of_deepnode(story);
}

fn send(from: &SigningKey, amount: u128) -> MsgSend {
    let to_address = key("user1").address().to_string();
    MsgSend { from_address: from.address().to_string(), to_address, amount: vec![udn(amount)] }
}

/// Refused before any message runs: nothing of them stays.
fn before_messages(story: &mut Story) {
    let user = key("user0");
    let data = story.chain.signer_data(&user.address()).unwrap();
    let good = || of(&send(&user, 1));
    let sign = |tx: TxBuilder| -> Bytes { tx.sign(&user, &data).into() };
    let time = story.chain.time / 1_000_000_000;
    let until = |seconds: u64| Timestamp { seconds: seconds as i64, nanos: 0 };
    let mut wrong = data.clone();
    let mut as_another = |change: fn(&mut deepnode_tx::SignerData)| -> Bytes {
        wrong = data.clone();
        change(&mut wrong);
        good().sign(&user, &wrong).into()
    };
    let none = Any { type_url: "/deepnode.none.v1.MsgNone".into(), value: Vec::new() };
    let mut forged = sign(good()).to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let mut two_signers = good().message(&send(&key("user2"), 1));
    two_signers.body.memo = "one signature".into();
    let list: Vec<(&str, Bytes)> = vec![
        ("no bytes", Bytes::new()),
        ("garbage", Bytes::from_static(b"garbage")),
        ("a cut transaction", sign(good()).slice(..100)),
        ("another signature", forged.into()),
        ("a later sequence", as_another(|data| data.sequence += 1)),
        ("another account's number", as_another(|data| data.account_number += 1)),
        ("another chain", as_another(|data| data.chain_id = "another-1".into())),
        ("no message", sign(TxBuilder::new().fee(FEE, "udn").gas(GAS))),
        ("an unknown message", sign(TxBuilder::new().any(none).fee(FEE, "udn").gas(GAS))),
        ("two signers, one signature", sign(two_signers)),
        ("no gas", sign(good().gas(0))),
        ("more gas than a block has", sign(good().gas(30_000_001))),
        ("gas that ends in ante", sign(good().gas(20_000))),
        ("a long memo", sign(good().memo("m".repeat(257)))),
        ("a height that has passed", sign(good().timeout_height(1))),
        (
            "a fee beyond the balance",
            sign(TxBuilder { fee: Default::default(), ..good() }.fee(1 << 100, "udn").gas(GAS)),
        ),
        (
            "a fee in another coin",
            sign(TxBuilder { fee: Default::default(), ..good() }.fee(1, "other").gas(GAS)),
        ),
        ("a payer without account", sign(good().fee_payer(key("nobody").address()))),
        ("an allowance", sign(good().fee_granter(key("user2").address()))),
        ("unordered with a sequence", sign(good().unordered(until(time + 60)))),
        ("unordered, far ahead", {
            let data = deepnode_tx::SignerData { sequence: 0, ..data.clone() };
            good().unordered(until(time + 100_000)).sign(&user, &data).into()
        }),
        ("a time that has passed", sign(good().unordered(until(time - 60)))),
        ("an account that does not exist", {
            let nobody = key("nobody");
            of(&send(&nobody, 1)).sign(&nobody, &data).into()
        }),
    ];
    for (what, tx) in list {
        let result = story.send(what, tx);
        assert!(result.code != 0 && result.events.is_empty(), "{what}: {result:?}");
    }
    assert_eq!(story.chain.signer_data(&user.address()).unwrap().sequence, data.sequence);

    // A nonce is good once.
    let unordered = deepnode_tx::SignerData { sequence: 0, ..data };
    let once: Bytes =
        good().unordered(until(story.chain.time / 1_000_000_000 + 60)).sign(&user, &unordered).into();
    assert_eq!(story.send("unordered", once.clone()).code, 0);
    assert_ne!(story.send("unordered again", once).code, 0);
}

fn of_cosmos(story: &mut Story) {
    let user = key("user0");
    let me = user.address().to_string();
    let validator = story.world.operators[0].address().to_operator();
    let nobodys = key("nobody").address().to_operator();
    story.bad("coins that are not there", &user, send(&user, 1 << 100));
    story.bad("no coins", &user, MsgSend { amount: Vec::new(), ..send(&user, 1) });
    let to_address = deepnode_tx::Address::module("tasks").to_string();
    story.bad("coins for a module", &user, MsgSend { to_address, ..send(&user, 1) });
    story.bad("no address", &user, MsgSend { to_address: "dn1".into(), ..send(&user, 1) });
    let delegate = |validator_address: &str, amount: u128| MsgDelegate {
        delegator_address: me.clone(),
        validator_address: validator_address.into(),
        amount: Some(udn(amount)),
    };
    story.bad("no stake", &user, delegate(&validator, 0));
    story.bad("an unknown validator", &user, delegate(&nobodys, DN));
    let undelegate = |validator_address: &str, amount: u128| MsgUndelegate {
        delegator_address: me.clone(),
        validator_address: validator_address.into(),
        amount: Some(udn(amount)),
    };
    story.bad("more than was delegated", &user, undelegate(&validator, 1_000_000 * DN));
    let fourth = story.world.operators[3].address().to_operator();
    story.bad("what was never delegated", &user, undelegate(&fourth, DN));
    let redelegate = MsgBeginRedelegate {
        delegator_address: me.clone(),
        validator_src_address: validator.clone(),
        validator_dst_address: validator.clone(),
        amount: Some(udn(DN)),
    };
    story.bad("a redelegation to where it is", &user, redelegate);
    let operator = story.world.operators[0].clone();
    let edit = |rate: Dec| MsgEditValidator {
        description: Some(Description { moniker: "m".into(), ..Description::default() }),
        validator_address: validator.clone(),
        commission_rate: rate.to_wire(),
        min_self_delegation: String::new(),
    };
    story.bad("a commission so soon", &operator, edit(Dec::percent(11)));
    let vote =
        |proposal_id, option| v1::MsgVote { proposal_id, voter: me.clone(), option, metadata: String::new() };
    story.bad("a vote on nothing", &user, vote(99, 1));
    story.bad("a vote too late", &user, vote(1, 1));
    story.bad("a vote for nothing", &user, vote(1, 9));
    let propose = |messages: Vec<Any>, title: &str| v1::MsgSubmitProposal {
        messages,
        initial_deposit: vec![udn(DN)],
        proposer: me.clone(),
        metadata: "m".into(),
        title: title.into(),
        summary: "s".into(),
        expedited: false,
    };
    story.bad("a proposal without title", &user, propose(Vec::new(), ""));
    let unknown = Any { type_url: "/deepnode.none.v1.MsgNone".into(), value: Vec::new() };
    story.bad("a proposal of an unknown message", &user, propose(vec![unknown], "t"));
    let mine = deepnode_proto::AnyExt::pack(&send(&user, 1));
    story.bad("a proposal of one's own message", &user, propose(vec![mine], "t"));
    let authority = me.clone();
    story.bad("parameters without a vote", &user, v1::MsgUpdateParams { authority, params: None });
    // The fee is paid and the sequence used, as the gas shows.
    let tx = story.chain.sign(&user, of(&delegate(&validator, DN)).gas(50_000));
    let result = story.send("gas that ends in a message", tx);
    assert!(result.code == 11 && !result.events.is_empty(), "{result:?}");
}

fn of_deepnode(story: &mut Story) {
    let (user, owner) = (key("user3"), key("owner"));
    let worker_key = story.world.workers[1].clone();
    let worker = worker_key.address().to_string();
    let model = Manifest::new(0).id();
    story.bad(
        "a model listed without a vote",
        &user,
        MsgSetScored { authority: user.address().to_string(), model_id: model.to_vec(), scored: true },
    );
    let manifest = Manifest::new(2);
    let register = MsgRegisterModel {
        owner: owner.address().to_string(),
        model_id: manifest.id().to_vec(),
        salt: b"salt".to_vec(),
        name: "third-model".into(),
        licence: "MIT".into(),
        architecture: architecture().encode(),
        architecture_path: manifest.path(),
        manifest_leaves: manifest.leaves(),
        ..MsgRegisterModel::default()
    };
    story.bad("a model without commitment", &owner, register.clone());
    let mut other = register.clone();
    other.architecture_path[0] = vec![0; 32];
    story.bad("another architecture", &owner, other);
    story.bad("a name with spaces", &owner, MsgRegisterModel { name: "a b".into(), ..register });

    let registration = |bond: u128, endpoint: &str| MsgRegisterWorker {
        worker: worker.clone(),
        bond: Some(udn(bond)),
        validator: story.world.operators[0].address().to_operator(),
        endpoint: endpoint.into(),
        hardware: String::new(),
        declared: 1,
    };
    let (twice, no_endpoint) =
        (registration(200 * DN, "https://w.example"), registration(200 * DN, "w.example"));
    story.bad("a worker registered twice", &worker_key, twice);
    story.bad("an endpoint that is none", &worker_key, no_endpoint);
    story.bad(
        "more bond than there is",
        &worker_key,
        MsgUnbond { worker: worker.clone(), amount: Some(udn(DN << 60)) },
    );
    let model_ids = vec![vec![9; 32]];
    story.bad("a model that nobody knows", &worker_key, MsgServeModels { worker: worker.clone(), model_ids });
    let operator = story.world.operators[3].clone();
    let approve = MsgApproveWorker { operator: operator.address().to_string(), worker: worker.clone() };
    story.bad("consent that nobody asked for", &operator, approve);

    let submit = |request: Request, max_price: u128| MsgSubmitTask {
        creator: user.address().to_string(),
        request: Some(request),
        input_tokens: 2,
        inline_input: vec![1, 0, 0, 0, 2, 0, 0, 0],
        max_price: Some(udn(max_price)),
        deadline: 0,
    };
    story.bad("too low a price", &user, submit(request(model), 1));
    story.bad("a task for an unknown model", &user, submit(request([9; 32]), DN));
    story.bad("a task for a deprecated model", &user, submit(request(Manifest::new(1).id()), DN));
    story.bad("another input", &user, submit(Request { input_digest: vec![0; 32], ..request(model) }, DN));
    story.bad(
        "more than the context holds",
        &user,
        submit(Request { max_output: 10_000, ..request(model) }, DN),
    );
    let creator = user.address().to_string();
    story.bad("a task cancelled twice", &user, MsgCancelTask { creator: creator.clone(), task_id: 1 });
    story.bad("a task that is not there", &user, MsgCancelTask { creator, task_id: 99 });
    story.bad("another's task", &worker_key, MsgAcceptTask { worker: worker.clone(), task_id: 1 });
    story.bad("a receipt of nothing", &worker_key, MsgSubmitReceipt { worker, receipt: None });

    let auditor_key = story.world.auditors[0].clone();
    let auditor = auditor_key.address().to_string();
    let commitment = vec![1; 32];
    let commit =
        |audit_id| MsgCommitVerdict { auditor: auditor.clone(), audit_id, commitment: commitment.clone() };
    story.bad("a verdict about nothing", &auditor_key, commit(99));
    story.bad("a verdict too late", &auditor_key, commit(1));
    let reveal = |verdict: i32, salt: usize| MsgRevealVerdict {
        auditor: auditor.clone(),
        audit_id: 1,
        verdict,
        digest: vec![1; 32],
        salt: vec![0; salt],
    };
    story.bad("no verdict", &auditor_key, reveal(0, 16));
    story.bad("a short salt", &auditor_key, reveal(1, 3));
    let register = |deposit: u128, classes: Vec<String>, auditor: &str| MsgRegisterAuditor {
        operator: operator.address().to_string(),
        auditor: auditor.into(),
        classes,
        deposit: Some(udn(deposit)),
    };
    story.bad("another's key", &operator, register(0, vec![CLASS.into()], &auditor));
    story.bad("a class that is none", &operator, register(0, vec!["none".into()], &auditor));
    let newcomer = key("user5");
    let message = MsgRegisterAuditor {
        operator: newcomer.address().to_string(),
        ..register(DN, vec![CLASS.into()], &auditor)
    };
    story.bad("an auditor without validator", &newcomer, message);
}
