//! One good transaction for every kind of message, in the order in which a network would see them.

use deepnode_core::Dec;
use deepnode_modules::{models, tasks};
use deepnode_proto::cosmos::bank::v1beta1::{Input, MsgMultiSend, MsgSend, Output};
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::cosmos::crypto::ed25519;
use deepnode_proto::cosmos::gov::{v1, v1beta1};
use deepnode_proto::cosmos::staking::v1beta1::*;
use deepnode_proto::deepnode::audits::v1::*;
use deepnode_proto::deepnode::models::v1::{ModelStatus, MsgCommitModel, MsgRegisterModel, MsgSetStatus};
use deepnode_proto::deepnode::tasks::v1::*;
use deepnode_proto::deepnode::workers::v1::*;
use deepnode_proto::{Any, AnyExt};
use deepnode_tx::{Address, SigningKey};

use super::Story;
use crate::chain::DN;
use crate::traffic;
use crate::world::{architecture, consensus_key, Manifest, CLASS, VALIDATORS};

/// Whether only governance can send it.
pub fn by_governance(url: &str) -> bool {
    ["UpdateParams", "MsgSetScored", "MsgSetSendEnabled"].iter().any(|name| url.ends_with(name))
}

pub fn udn(amount: u128) -> Coin {
    Coin { denom: "udn".into(), amount: amount.to_string() }
}

pub fn tell(story: &mut Story) {
    story.blocks(1);
    bank(story);
    staking(story);
    governance(story);
    workers_and_auditors(story);
    model(story);
    let task = task(story);
    audit(story, task);
    // Until all that waits has come: the receipt is final, stake and bond are paid out, scores show in powers.
    story.blocks(130);
}

fn bank(story: &mut Story) {
    let [one, two, three] = [0, 1, 2].map(|n| story.world.users[n].clone());
    let [from, to, other] = [&one, &two, &three].map(|key| key.address().to_string());
    story.good(&one, MsgSend { from_address: from.clone(), to_address: to.clone(), amount: vec![udn(5)] });
    let input = Input { address: from, coins: vec![udn(3)] };
    let outputs = [(to, 1), (other, 2)].map(|(address, amount)| Output { address, coins: vec![udn(amount)] });
    story.good(&one, MsgMultiSend { inputs: vec![input], outputs: outputs.into() });
}

#[allow(deprecated)] // delegator_address
fn staking(story: &mut Story) {
    let user = story.world.users[0].clone();
    let delegator_address = user.address().to_string();
    let [first, second] = [0, 1].map(|n| story.world.operators[n].address().to_operator());
    let amount = Some(udn(100 * DN));
    let part = Some(udn(10 * DN));
    story.good(
        &user,
        MsgDelegate {
            delegator_address: delegator_address.clone(),
            validator_address: first.clone(),
            amount,
        },
    );
    story.good(
        &user,
        MsgUndelegate {
            delegator_address: delegator_address.clone(),
            validator_address: first.clone(),
            amount: part.clone(),
        },
    );
    story.good(
        &user,
        MsgCancelUnbondingDelegation {
            delegator_address: delegator_address.clone(),
            validator_address: first.clone(),
            amount: Some(udn(4 * DN)),
            creation_height: story.chain.height as i64,
        },
    );
    story.good(
        &user,
        MsgBeginRedelegate {
            delegator_address,
            validator_src_address: first,
            validator_dst_address: second,
            amount: part,
        },
    );
    let newcomer = story.world.operators[VALIDATORS].clone();
    let consensus = ed25519::PubKey { key: consensus_key(&newcomer.address()).to_vec() };
    let description = |moniker: &str| Description { moniker: moniker.into(), ..Description::default() };
    story.good(
        &newcomer,
        MsgCreateValidator {
            description: Some(description("newcomer")),
            commission: Some(CommissionRates {
                rate: Dec::percent(10).to_wire(),
                max_rate: Dec::percent(20).to_wire(),
                max_change_rate: Dec::percent(1).to_wire(),
            }),
            min_self_delegation: "1".into(),
            delegator_address: String::new(),
            validator_address: newcomer.address().to_operator(),
            pubkey: Some(Any::pack(&consensus)),
            value: Some(udn(5_000 * DN)),
        },
    );
    story.good(
        &newcomer,
        MsgEditValidator {
            description: Some(description("old hand")),
            validator_address: newcomer.address().to_operator(),
            commission_rate: String::new(),
            min_self_delegation: String::new(),
        },
    );
}

fn governance(story: &mut Story) {
    let users = story.world.users.clone();
    let proposer = users[0].address().to_string();
    let update = {
        use deepnode_proto::deepnode::powr::v1::*;
        let answer: QueryParamsResponse = story.chain.ask("Params", &QueryParamsRequest {});
        let authority = deepnode_core::authority().to_string();
        Any::pack(&MsgUpdateParams { authority, params: answer.params })
    };
    let proposal = v1::MsgSubmitProposal {
        messages: vec![update],
        initial_deposit: vec![udn(DN)],
        proposer: proposer.clone(),
        metadata: String::new(),
        title: "Keep it".into(),
        summary: "All stays as it is".into(),
        expedited: false,
    };
    story.good(&users[0], proposal.clone());
    let deposit = vec![udn(5 * DN)];
    let depositor = |key: &SigningKey| key.address().to_string();
    let pay = v1::MsgDeposit { proposal_id: 1, depositor: depositor(&users[1]), amount: deposit.clone() };
    story.good(&users[1], pay);
    let pay = v1beta1::MsgDeposit { proposal_id: 1, depositor: depositor(&users[2]), amount: deposit };
    story.good(&users[2], pay);
    let operators = story.world.operators.clone();
    let voter = |n: usize| operators[n].address().to_string();
    let metadata = String::new();
    story.good(
        &operators[0],
        v1::MsgVote { proposal_id: 1, voter: voter(0), option: 1, metadata: metadata.clone() },
    );
    let options = [(1, 60), (2, 40)].map(|(option, percent)| v1::WeightedVoteOption {
        option,
        weight: Dec::percent(percent).to_string(),
    });
    story.good(
        &operators[1],
        v1::MsgVoteWeighted { proposal_id: 1, voter: voter(1), options: options.into(), metadata },
    );
    story.good(&operators[2], v1beta1::MsgVote { proposal_id: 1, voter: voter(2), option: 1 });
    let options = vec![v1beta1::WeightedVoteOption { option: 1, weight: Dec::ONE.to_wire() }];
    story.good(&operators[3], v1beta1::MsgVoteWeighted { proposal_id: 1, voter: voter(3), options });
    story.good(&users[0], proposal);
    story.good(&users[0], v1::MsgCancelProposal { proposal_id: 2, proposer });
    story.blocks(20);
    assert_eq!(story.seen.count("active_proposal.proposal_passed"), 1);
}

fn workers_and_auditors(story: &mut Story) {
    let operators = story.world.operators.clone();
    for (n, key) in operators.iter().enumerate().take(VALIDATORS) {
        let message = MsgRegisterAuditor {
            operator: key.address().to_string(),
            auditor: story.world.auditors[n].address().to_string(),
            classes: vec![CLASS.into()],
            deposit: Some(udn(200 * DN)),
        };
        story.good(key, message);
    }
    for n in 0..2 {
        let key = story.world.workers[n].clone();
        let worker = key.address().to_string();
        let endpoint = format!("https://worker{n}.example:9443");
        let message = MsgRegisterWorker {
            worker: worker.clone(),
            bond: Some(udn(200 * DN)),
            validator: operators[n].address().to_operator(),
            endpoint: endpoint.clone(),
            hardware: "cpu".into(),
            declared: 20_000,
        };
        story.good(&key, message);
        let operator = operators[n].address().to_string();
        story.good(&operators[n], MsgApproveWorker { operator, worker: worker.clone() });
        let model_ids = vec![Manifest::new(0).id().to_vec()];
        story.good(&key, MsgServeModels { worker: worker.clone(), model_ids });
        story.good(&key, MsgHeartbeat { worker: worker.clone() });
        if n == 0 {
            let hardware = "gpu".into();
            story
                .good(&key, MsgUpdateWorker { worker: worker.clone(), endpoint, hardware, declared: 30_000 });
            story.good(&key, MsgAddBond { worker: worker.clone(), amount: Some(udn(50 * DN)) });
            story.good(&key, MsgUnbond { worker: worker.clone(), amount: Some(udn(20 * DN)) });
            story.blocks(5);
            story.good(&key, MsgBackValidator { worker, validator: operators[2].address().to_operator() });
        }
    }
}

/// Registers a model; its auditors agree on the test vector.
fn model(story: &mut Story) {
    let owner = story.world.owner.clone();
    let address = owner.address();
    let manifest = Manifest::new(1);
    let commitment = models::commitment(&manifest.id(), &address, b"salt").to_vec();
    story.good(&owner, MsgCommitModel { owner: address.to_string(), commitment });
    story.blocks(1);
    let message = MsgRegisterModel {
        owner: address.to_string(),
        model_id: manifest.id().to_vec(),
        salt: b"salt".to_vec(),
        name: "second-model".into(),
        licence: "MIT".into(),
        architecture: architecture().encode(),
        architecture_path: manifest.path(),
        manifest_leaves: manifest.leaves(),
        royalty_ppm: 100_000,
        parent: Manifest::new(0).id().to_vec(),
        parent_part_ppm: 250_000,
    };
    story.good(&owner, message);
    story.blocks(3);
    let id = *story.seen.audits.keys().next().expect("an audit of the test vector");
    judge(story, id, None);
    story.blocks(1);
    assert_eq!(story.seen.count("model_status.MODEL_STATUS_ACTIVE"), 1);
    let status = ModelStatus::Deprecated.into();
    story
        .good(&owner, MsgSetStatus { signer: address.to_string(), model_id: manifest.id().to_vec(), status });
}

pub fn request(model: [u8; 32]) -> Request {
    Request {
        model_id: model.to_vec(),
        input_kind: InputKind::Tokens.into(),
        input_digest: blake3::hash(&[1, 0, 0, 0, 2, 0, 0, 0]).as_bytes().to_vec(),
        max_output: 8,
        sampling: Some(SamplingParams { temperature: 700_000, top_p: 0, top_k: 0, seed: Vec::new() }),
        stop: Vec::new(),
    }
}

fn submit(story: &mut Story) -> u64 {
    let user = story.world.users[3].clone();
    let message = MsgSubmitTask {
        creator: user.address().to_string(),
        request: Some(request(Manifest::new(0).id())),
        input_tokens: 2,
        inline_input: vec![1, 0, 0, 0, 2, 0, 0, 0],
        max_price: Some(udn(10_000)),
        deadline: 0,
    };
    story.good(&user, message);
    *story.seen.tasks.last().unwrap()
}

/// The worker to whom a task is assigned.
fn assignee(story: &Story, task: u64) -> SigningKey {
    let worker = tasks::get(&story.chain.state(), task).unwrap().unwrap().worker.expect("assigned");
    story.world.workers.iter().find(|key| key.address() == worker).unwrap().clone()
}

/// Three tasks: one cancelled, one declined and left alone, and one with a receipt, which is returned.
fn task(story: &mut Story) -> u64 {
    for n in 0..2 {
        let key = story.world.workers[n].clone();
        story.good(&key, MsgHeartbeat { worker: key.address().to_string() });
    }
    let id = submit(story);
    let user = story.world.users[3].clone();
    story.good(&user, MsgCancelTask { creator: user.address().to_string(), task_id: id });
    let id = submit(story);
    story.blocks(2);
    let key = assignee(story, id);
    let worker = key.address().to_string();
    story.good(&key, MsgDeclineTask { worker, task_id: id, reason: "cannot read it".into() });

    let id = submit(story);
    story.blocks(2);
    let key = assignee(story, id);
    let worker = key.address().to_string();
    story.good(&key, MsgAcceptTask { worker: worker.clone(), task_id: id });
    story.blocks(2);
    let receipt = traffic::receipt(&tasks::get(&story.chain.state(), id).unwrap().unwrap());
    story.good(&key, MsgSubmitReceipt { worker, receipt: Some(receipt) });
    id
}

/// The receipt's auditors miss its blobs, see them on chain, and find it right.
fn audit(story: &mut Story, task: u64) {
    story.blocks(2);
    let (&id, audit) =
        story.seen.audits.iter().find(|(_, audit)| audit.task == Some(task)).expect("an audit");
    let auditor = key_of(story, &audit.auditors[0]);
    let address = auditor.address().to_string();
    story.good(&auditor, MsgReportMissing { auditor: address, audit_id: id });
    let state = tasks::get(&story.chain.state(), task).unwrap().unwrap();
    let key = assignee(story, task);
    story.good(&key, traffic::shown(&key, id, &state));
    judge(story, id, Some(task));
    story.blocks(1);
    assert_eq!(story.seen.count("audit_closed.right"), 2);
    assert_eq!(story.seen.count("task_settled"), 1);
}

fn key_of(story: &Story, auditor: &Address) -> SigningKey {
    story.world.auditors.iter().find(|key| key.address() == *auditor).unwrap().clone()
}

/// All auditors of an audit commit and reveal that they computed the same.
fn judge(story: &mut Story, id: u64, task: Option<u64>) {
    assert_eq!(story.seen.audits[&id].task, task);
    let keys: Vec<SigningKey> =
        story.seen.audits[&id].auditors.iter().map(|key| key_of(story, key)).collect();
    let (digest, salt) = ([5; 32], vec![6; 16]);
    for key in &keys {
        let commitment =
            deepnode_modules::audits::commitment(&key.address(), Verdict::Right, &digest, &salt).to_vec();
        let auditor = key.address().to_string();
        story.good(key, MsgCommitVerdict { auditor, audit_id: id, commitment });
    }
    for key in &keys {
        let (auditor, verdict) = (key.address().to_string(), Verdict::Right.into());
        let message =
            MsgRevealVerdict { auditor, audit_id: id, verdict, digest: digest.to_vec(), salt: salt.clone() };
        story.good(key, message);
    }
}
