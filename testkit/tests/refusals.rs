//! Messages that the chain must not take: each is refused by name, and changes nothing.

use deepnode_core::UDN;
use deepnode_proto::cosmos::base::v1beta1::Coin;
use deepnode_proto::deepnode::audits::v1::{MsgCommitVerdict, MsgRevealVerdict, Phase, Verdict};
use deepnode_proto::deepnode::tasks::v1::{
    Finish, MsgAcceptTask, MsgSubmitReceipt, MsgSubmitTask, MsgSubmitTaskResponse, Receipt, Task, TaskStatus,
};
use deepnode_proto::deepnode::workers::v1::{MsgRegisterWorker, MsgServeModels};
use deepnode_proto::Name;
use deepnode_testkit::network::{responses, Network, Setup, BOND};
use deepnode_tx::SigningKey;
use deepnode_worker::request::message_digest;
use serde_json::{json, Value};

/// What a refused message must leave as it is.
const SECTIONS: [&str; 5] = ["bank", "tasks", "audits", "workers", "reputation"];
const SALT: [u8; 32] = [5; 32];

fn state(network: &Network) -> Vec<Value> {
    SECTIONS.iter().map(|section| network.section(section)).collect()
}

fn is_refused<M: Name>(network: &Network, key: &SigningKey, message: &M, why: &str) {
    let before = state(network);
    let error = network.deliver(key, message).unwrap_err().to_string();
    assert!(error.contains(why), "{error:?} does not say {why:?}");
    assert_eq!(state(network), before, "{error}");
}

fn register(network: &Network, key: &SigningKey, serves: bool) {
    let worker = key.address().to_string();
    let message = MsgRegisterWorker {
        worker: worker.clone(),
        bond: Some(Coin { denom: UDN.into(), amount: BOND.to_string() }),
        validator: network.validators()[0].operator.address().to_operator(),
        endpoint: "http://127.0.0.1:1".into(),
        hardware: "test".into(),
        declared: 100,
    };
    network.deliver(key, &message).unwrap();
    if serves {
        let model_ids = vec![network.model().id().to_vec()];
        network.deliver(key, &MsgServeModels { worker, model_ids }).unwrap();
    }
}

/// A task that the worker has accepted.
fn accepted(network: &Network, worker: &SigningKey, deadline: u64) -> Task {
    let user = &network.users()[0];
    let mut question = network.question(user, "What is the sea?", 8);
    question.request.as_mut().unwrap().sampling = None;
    let (_, result) = network.deliver(user, &MsgSubmitTask { deadline, ..question }).unwrap();
    let id = responses::<MsgSubmitTaskResponse>(&result).next().unwrap().task_id;
    while network.task(id).status() == TaskStatus::Open {
        network.block();
    }
    let worker_address = worker.address().to_string();
    network.deliver(worker, &MsgAcceptTask { worker: worker_address, task_id: id }).unwrap();
    network.task(id)
}

fn receipt(worker: &SigningKey, task: &Task) -> MsgSubmitReceipt {
    let ask = task.request.as_ref().unwrap();
    let receipt = Receipt {
        task_id: task.id,
        model_id: ask.model_id.clone(),
        request_digest: message_digest(ask).to_vec(),
        input_digest: vec![1; 32],
        input_tokens: 10,
        result_digest: vec![2; 32],
        output_tokens: 8,
        finish: Finish::Length.into(),
        trace_root: vec![3; 32],
        canon: 1,
    };
    MsgSubmitReceipt { worker: worker.address().to_string(), receipt: Some(receipt) }
}

#[test]
fn what_must_not_be_taken_is_refused_by_name() {
    let changes = json!({ "tasks": { "params": { "min_deadline": "10" } } });
    let network = Network::start(Setup { changes, ..Setup::default() });
    let (worker, other, user) = (&network.workers()[0], &network.workers()[1], &network.users()[0]);
    register(&network, worker, true);
    register(&network, other, false);
    let (name, other_name) = (worker.address(), other.address());

    // The model's context is 256 tokens. Nothing is locked, no task is made.
    let long = MsgSubmitTask { input_tokens: 250, ..network.question(user, "What is the sea?", 8) };
    is_refused(&network, user, &long, "input_tokens + max_output is 258, allowed are 2 to 256");

    let task = accepted(&network, worker, 100);
    let wrong = format!("task 1: {other_name} is not its worker, which is {name}");
    is_refused(&network, other, &receipt(other, &task), &wrong);
    network.deliver(worker, &receipt(worker, &task)).unwrap();
    let twice = "task 1 is Submitted, it must be Accepted";
    is_refused(&network, worker, &receipt(worker, &task), twice);

    network.block();
    network.block();
    let audit = network.audits(task.id).remove(0);
    assert_eq!(audit.phase(), Phase::Commit);
    let seated = |key: &&SigningKey| {
        let key = key.address().to_string();
        audit.members.iter().any(|m| m.auditor == key)
    };
    let keys = || network.validators().iter().map(|v| &v.auditor);
    let drawn: Vec<_> = keys().filter(seated).collect();
    let outsider = keys().find(|key| !seated(key)).unwrap();
    let commit = |key: &SigningKey| {
        let hidden = [&key.address().as_bytes()[..], &[Verdict::Right as u8], &[1; 32], &SALT].concat();
        let commitment = blake3::hash(&hidden).as_bytes().to_vec();
        MsgCommitVerdict { auditor: key.address().to_string(), audit_id: audit.id, commitment }
    };
    let reveal = |key: &SigningKey, digest: [u8; 32]| MsgRevealVerdict {
        auditor: key.address().to_string(),
        audit_id: audit.id,
        verdict: Verdict::Right.into(),
        digest: digest.to_vec(),
        salt: SALT.to_vec(),
    };
    let not_drawn = format!("audit 1: {} is not a member of its latest draw", outsider.address());
    is_refused(&network, outsider, &commit(outsider), &not_drawn);
    for key in &drawn {
        network.deliver(key, &commit(key)).unwrap();
    }
    is_refused(&network, outsider, &reveal(outsider, [1; 32]), &not_drawn);
    let committed = hex::encode(commit(drawn[0]).commitment);
    let other_digest = format!("it must be {committed}");
    is_refused(&network, drawn[0], &reveal(drawn[0], [2; 32]), &other_digest);
    for key in &drawn {
        network.deliver(key, &reveal(key, [1; 32])).unwrap();
    }
    network.block();
    assert_eq!(network.task(task.id).status(), TaskStatus::Settled);

    let task = accepted(&network, worker, 12);
    let last = task.accepted_height + task.deadline;
    while network.height() < last {
        network.block();
    }
    let late = format!("task 2: block {} is too late, the last was {last}", last + 1);
    is_refused(&network, worker, &receipt(worker, &task), &late);
    network.invariants();
}
