//! Honest workers are never convicted, and a task outlives its worker.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::Duration;

use deepnode_client::ask::{ask, Event, Question};
use deepnode_client::{Client, Options, Serving};
use deepnode_proto::deepnode::audits::v1::{Outcome, Verdict};
use deepnode_proto::deepnode::tasks::v1::{Finish, MsgSubmitTask, MsgSubmitTaskResponse, Task, TaskStatus};
use deepnode_proto::{Any, AnyExt};
use deepnode_testkit::network::{responses, Network, Setup, BOND, CHAIN_ID, FUNDS};
use deepnode_worker::canon::commit::token_digest;
use deepnode_worker::canon::{Digest, SamplingParams};
use deepnode_worker::chain::Order;
use deepnode_worker::engine::{EngineError, Generation};
use deepnode_worker::model::Model;
use deepnode_worker::run::{Engines, Executor};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

const TASKS: usize = 200;
const BATCH: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_workers_are_never_convicted() {
    let changes = json!({ "beacon": { "params": { "epoch_blocks": "20" } } });
    let network = Network::start(Setup { changes, ..Setup::default() });
    let _blocks = network.blocks(Duration::from_millis(10));
    let _auditors = network.audit_all();
    let mut workers = Vec::new();
    for index in 0..3 {
        workers.push(network.work(index, index, network.engines()).await);
    }

    let mut ids = Vec::new();
    for batch in 0..TASKS / BATCH {
        let user = &network.users()[batch % network.users().len()];
        let question = |n| network.question(user, &format!("Question {n} of batch {batch}?"), 8);
        let messages = (0..BATCH).map(|n| Any::pack(&question(n))).collect();
        let (_, result) = network.send(user, messages, Order::Sequence).await.unwrap();
        ids.extend(responses::<MsgSubmitTaskResponse>(&result).map(|r| r.task_id));
    }
    assert_eq!(ids.len(), TASKS);
    let mut tasks = Vec::new();
    for id in ids {
        tasks.push(network.ended(id).await);
    }

    let mut served = BTreeSet::new();
    for task in &tasks {
        assert_eq!(task.status(), TaskStatus::Settled, "{task:?}");
        assert!(task.drawn && task.earlier.is_empty(), "{task:?}");
        let receipt = task.receipt.as_ref().unwrap();
        assert!(receipt.output_tokens == 8 || receipt.finish() == Finish::Eos, "{receipt:?}");
        served.insert(task.worker.clone());
    }
    assert_eq!(served.len(), workers.len());
    let tokens: u32 = tasks.iter().map(|t| t.receipt.as_ref().unwrap().output_tokens).sum();
    assert!(tokens as usize > TASKS * 7, "{tokens} tokens");

    // What was earned in an epoch counts from the next one on.
    let (epoch, _) = network.terms(0);
    network.until("the epoch is over", || async { (network.terms(0).0 > epoch).then_some(()) }).await;
    assert_eq!(network.open_audits(), 0);
    let audits = network.audits(0);
    assert_eq!(audits.len(), TASKS);
    assert!(audits.iter().all(|audit| audit.outcome() == Outcome::Right));
    for worker in &workers {
        let record = network.record(&worker.address, 0);
        assert_eq!((record.wrong.as_str(), record.new_wrong.as_str()), ("0", "0"), "{record:?}");
        assert!(record.reputation.parse::<f64>().unwrap() > 0.3, "{record:?}");
        let state = network.worker(&worker.address, 0);
        assert_eq!(state.bond, BOND.to_string());
        assert_eq!((state.open_tasks, state.pending_pay.as_str()), (0, "0"), "{state:?}");
        let paid = network.balance(&worker.address, 0);
        assert!(paid > FUNDS - BOND, "{paid}");
    }
    network.invariants();
    let (supply, balances) = network.supply_and_balances();
    assert_eq!(supply, balances);
}

/// A question that is on no chain goes to the worker, and the answer comes from it as it grows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_question_goes_over_the_wire() {
    let network = Network::start(Setup::default());
    let _blocks = network.blocks(Duration::from_millis(10));
    let _auditors = network.audit_all();
    let worker = network.work(0, 0, network.engines()).await;
    let (user, stranger) = (&network.users()[0], &network.users()[1]);
    let text = "What is the sea?";
    let question = MsgSubmitTask { inline_input: Vec::new(), ..network.question(user, text, 8) };
    let id = network.submit_task(user, &question).await.unwrap();
    let assigned = || async { (network.task(id).status() == TaskStatus::Assigned).then_some(()) };
    network.until("the task is assigned", assigned).await;

    let endpoint = network.worker(&worker.address, 0).endpoint;
    let connect = |key| Serving::connect(&endpoint, CHAIN_ID, worker.address, key);
    let mut serving = connect(user).await.unwrap();
    assert!(connect(stranger).await.unwrap().put_input(id, text.into()).await.is_err());
    let stream = serving.stream(id).await.unwrap();
    serving.put_input(id, text.into()).await.unwrap();
    let messages: Vec<_> = stream.collect::<Result<_, _>>().await.unwrap();
    let tokens: Vec<u32> = messages.iter().flat_map(|m| m.tokens.clone()).collect();
    let task = network.ended(id).await;
    assert_eq!(task.status(), TaskStatus::Settled, "{task:?}");
    assert_eq!(task.receipt, messages.last().unwrap().receipt);
    assert_eq!(task.receipt.unwrap().result_digest, token_digest(&tokens));
    assert_eq!(network.audits(id)[0].outcome(), Outcome::Right);
}

/// `deepnoded ask`, as far as it is not printing: over a node, to a worker that the chain names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_asked_as_users_ask() {
    let network = Network::start(Setup::default());
    let _blocks = network.blocks(Duration::from_millis(10));
    let node = network.node().await;
    let worker = network.work(0, 0, network.engines()).await;
    let client = Client::connect(&node.address.to_string()).await.unwrap();
    let user = &network.users()[0];
    for inline in [false, true] {
        let question = Question { inline, ..Question::new("small", "What is the sea?", 8) };
        let mut events = Vec::new();
        let answered = ask(&client, user, &question, &Options::default(), &mut |event| events.push(event))
            .await
            .unwrap();
        let text = |event: &Event| match event {
            Event::Text(text) => Some(text.clone()),
            _ => None,
        };
        assert_eq!(events.iter().filter_map(text).collect::<String>(), answered.text);
        let named = |event: &Event| matches!(event, Event::Assigned { worker: w, .. } if *w == worker.address.to_string());
        assert!(events.iter().any(named), "{events:?}");
        let task = network.task(answered.id);
        assert_eq!((task.receipt.clone(), &task.price), (answered.receipt, &answered.price));
        assert_eq!(task.inline_input.is_empty(), !inline);
    }
    // More than the model's context is refused before anything is paid.
    let question = Question::new("small", "What is the sea?", 256);
    let error = ask(&client, user, &question, &Options::default(), &mut |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("the model's context is 256 tokens"), "{error}");
}

/// Auditors cannot reach the worker, which shows on the chain what they ask for: nothing happens to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_shows_its_blobs_is_paid() {
    let network = Network::start(Setup::default());
    let _blocks = network.blocks(Duration::from_millis(10));
    let _auditors = network.audit_all();
    let worker = network.work_at(0, 0, network.engines(), Some("http://127.0.0.1:1")).await;
    let user = &network.users()[0];
    let id = network.submit_task(user, &network.question(user, "What is the sea?", 8)).await.unwrap();
    let task = network.ended(id).await;
    assert_eq!(task.status(), TaskStatus::Settled, "{task:?}");
    let audit = network.audits(id).remove(0);
    assert_eq!((audit.outcome(), audit.draws.len()), (Outcome::Right, 1), "{audit:?}");
    assert!(audit.members.iter().all(|m| m.verdict() == Verdict::Right), "{audit:?}");
    assert_eq!(network.worker(&worker.address, 0).bond, BOND.to_string());
    network.invariants();
}

/// Accepts tasks, tells that it computes, and never ends.
struct Stuck(Engines, mpsc::UnboundedSender<u64>);

impl Executor for Stuck {
    fn models(&self) -> Vec<Digest> {
        self.0.models()
    }

    fn model(&self, id: &Digest) -> Option<Arc<Model>> {
        self.0.model(id)
    }

    fn generate(
        &self,
        task: &Task,
        _: &[u32],
        _: &SamplingParams,
        _: &mut dyn FnMut(u32),
        _: &AtomicBool,
    ) -> Result<Generation, EngineError> {
        let _ = self.1.send(task.id);
        loop {
            std::thread::park();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_outlives_its_worker() {
    let changes = json!({ "tasks": { "params": { "min_deadline": "150" } } });
    let network = Network::start(Setup { changes, ..Setup::default() });
    let _blocks = network.blocks(Duration::from_millis(10));
    let _auditors = network.audit_all();
    let (sender, mut computing) = mpsc::unbounded_channel();
    let doomed = network.work(0, 0, Stuck(network.engines(), sender)).await;
    let user = &network.users()[0];
    let question = MsgSubmitTask { deadline: 0, ..network.question(user, "What is the sea?", 8) };
    let id = network.submit_task(user, &question).await.unwrap();
    assert_eq!(computing.recv().await, Some(id));
    assert_eq!(network.task(id).status(), TaskStatus::Accepted);
    let deadline = network.task(id).accepted_height + network.task(id).deadline;
    let gone = doomed.address;
    drop(doomed);

    let other = network.work(1, 1, network.engines()).await;
    let task = network.ended(id).await;
    assert_eq!(task.status(), TaskStatus::Settled, "{task:?}");
    assert_eq!((task.worker, task.earlier), (other.address.to_string(), vec![gone.to_string()]));
    assert!(task.assigned_height > deadline, "{} after {deadline}", task.assigned_height);
    // The mark of a late answer; the answer counts for the other alone.
    let record = network.record(&gone, 0);
    assert!(record.new_late != "0" || record.soft != "0", "{record:?}");
    assert_eq!((record.passes.as_str(), record.new_passes.as_str()), ("0", "0"), "{record:?}");
    let record = network.record(&other.address, 0);
    assert!(record.new_passes != "0" || record.passes != "0", "{record:?}");
    assert_eq!(network.worker(&gone, 0).open_tasks, 0);
    network.invariants();
}
