//! The verdict on receipts that are right, and on receipts that are wrong in one thing.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use deepnode_proto::deepnode::audits::v1::Verdict;
use deepnode_proto::deepnode::tasks::v1::{Finish, InputKind, Receipt, Task};
use deepnode_worker::engine::{self, EngineError, Generation};
use deepnode_worker::model::{synthetic, Model, ModelError, Sandbox};
use deepnode_worker::request::{self, InputError};
use deepnode_worker::run::{Engines, Executor};
use deepnode_worker::verify::{check, vector, vector_input, Finding};

use super::{ask, engines, model_of, sandbox, small_model};

const INPUT: &[u8] = b"[{\"role\":\"user\",\"content\":\"What is the sea?\"}]";
static NEVER: AtomicBool = AtomicBool::new(false);

fn task(model: &Model) -> Task {
    Task {
        id: 3,
        request: Some(ask(model, INPUT, InputKind::Chat, 900_000)),
        input_tokens: 100,
        seed: vec![6; 32],
        ..Default::default()
    }
}

/// What a worker does that follows `task`, with these engines.
pub(super) fn answer(engines: &Engines, model: &Model, task: &Task, input: &[u8]) -> (Vec<u32>, Generation) {
    let ask = task.request.as_ref().unwrap();
    let prompt = request::prompt(model, ask.input_kind(), input).unwrap();
    let params = request::sampling(task).unwrap();
    let generation = engines.generate(task, &prompt, &params, &mut |_| (), &NEVER).unwrap();
    (prompt, generation)
}

/// The same model but for one bit of one weight in the last layer, under the same name.
fn flipped(model: &Model, folder: &Path) -> Arc<Model> {
    let mut bytes = std::fs::read(model.path()).unwrap();
    let at = bytes.len() - 4096 * 3 / 2;
    // The highest bit of a half's fraction.
    bytes[at / 2 * 2 + 1] ^= 2;
    let path = folder.join("flipped.bin");
    std::fs::write(&path, bytes).unwrap();
    let flipped = Model::open(&path).unwrap();
    assert!(flipped.verify().is_err() && flipped.id() == model.id());
    Arc::new(flipped)
}

#[test]
fn right_is_right_and_anything_else_is_wrong() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let honest = engines(&model);
    let (_, engine) = honest.get(&model.id()).unwrap();
    let verdict = |task: &Task, receipt: Receipt, output: &[u32], input: &[u8]| -> Finding {
        let task = Task { receipt: Some(receipt), ..task.clone() };
        check(&model, engine, &task, input, &request::token_bytes(output), &[8; 32], &NEVER).unwrap()
    };
    let task = task(&model);
    let ask = task.request.clone().unwrap();
    let (prompt, generation) = answer(&honest, &model, &task, INPUT);
    let receipt = request::receipt(task.id, &ask, &prompt, &generation);
    let tokens = &generation.tokens;
    let right = verdict(&task, receipt.clone(), tokens, INPUT);
    assert_eq!(right.verdict, Verdict::Right, "{right:?}");

    let wrong = |name: &str, reason: &str, finding: Finding| {
        assert_eq!(finding.verdict, Verdict::Wrong, "{name}: {finding:?}");
        assert!(finding.reason.contains(reason), "{name}: {finding:?}");
    };
    // Another model, one bit away.
    let bent = engines(&flipped(&model, home.path()));
    let (_, other) = answer(&bent, &model, &task, INPUT);
    wrong(
        "weight",
        "must be",
        verdict(&task, request::receipt(3, &ask, &prompt, &other), &other.tokens, INPUT),
    );
    // Another sampler: greedy, and another seed.
    for (name, temperature, seed) in [("greedy", 0, 6), ("seed", 900_000, 7)] {
        let mut cheaper = task.clone();
        cheaper.request.as_mut().unwrap().sampling.as_mut().unwrap().temperature = temperature;
        cheaper.seed = vec![seed; 32];
        let (_, other) = answer(&honest, &model, &cheaper, INPUT);
        assert_ne!(other.tokens, *tokens, "{name}");
        let receipt = request::receipt(3, &ask, &prompt, &other);
        wrong(name, "output token", verdict(&task, receipt, &other.tokens, INPUT));
    }
    // Another prompt: said as it is, and hidden.
    let (short, other) = answer(&honest, &model, &task, b"[{\"role\":\"user\",\"content\":\"Sea?\"}]");
    let told = request::receipt(3, &ask, &short, &other);
    wrong("prompt", "other tokens", verdict(&task, told, &other.tokens, INPUT));
    let hidden = request::receipt(3, &ask, &prompt, &other);
    wrong("hidden prompt", "must be", verdict(&task, hidden, &other.tokens, INPUT));
    // Each token, changed; and an end cut off.
    for i in 0..tokens.len() {
        let mut changed = generation.clone();
        changed.tokens[i] ^= 1;
        let receipt = request::receipt(3, &ask, &prompt, &changed);
        let finding = verdict(&task, receipt, &changed.tokens, INPUT);
        wrong("token", &format!("output token {i} is"), finding);
    }
    let mut cut = generation.clone();
    cut.tokens.pop();
    cut.leaves.pop();
    let receipt_of_cut = request::receipt(3, &ask, &prompt, &cut);
    wrong("cut", "the end is", verdict(&task, receipt_of_cut, &cut.tokens, INPUT));
    // Each field of the receipt.
    type Change = dyn Fn(&mut Receipt);
    let changes: [(&str, &Change); 10] = [
        ("task_id", &|r| r.task_id = 4),
        ("model_id", &|r| r.model_id = vec![1; 32]),
        ("request_digest", &|r| r.request_digest[0] ^= 1),
        ("input_digest", &|r| r.input_digest[0] ^= 1),
        ("input_tokens", &|r| r.input_tokens += 1),
        ("result_digest", &|r| r.result_digest[0] ^= 1),
        ("output_tokens", &|r| r.output_tokens += 1),
        ("finish", &|r| r.set_finish(Finish::Numeric)),
        ("trace_root", &|r| r.trace_root[0] ^= 1),
        ("canon", &|r| r.canon = 2),
    ];
    for (name, change) in changes {
        let mut changed = receipt.clone();
        change(&mut changed);
        wrong(name, "", verdict(&task, changed, tokens, INPUT));
    }
    // A worker must not take what it has to decline.
    let small = Task { input_tokens: 3, ..task.clone() };
    wrong("declared", "must decline", verdict(&small, receipt.clone(), tokens, INPUT));
    wrong("unreadable", "cannot be read", verdict(&task, receipt, tokens, b"no JSON"));
}

#[test]
fn nobody_chooses_a_test_vector() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let ids = vector_input(&[1; 32], &model.id(), 288);
    assert_eq!(ids.len(), 32);
    let spelled = blake3::hash(&[&[1; 32][..], &model.id(), &[31, 0, 0, 0]].concat());
    let rest = spelled.as_bytes().iter().rev().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % 288);
    assert_eq!(ids[31], rest);
    let root = |model: &Arc<Model>, beacon| {
        let engines = engines(model);
        let (model, engine) = engines.get(&model.id()).unwrap();
        vector(model, engine, &beacon, &NEVER).unwrap().digest
    };
    let truth = root(&model, [1; 32]);
    assert_eq!(root(&model, [1; 32]), truth);
    assert_ne!(root(&model, [2; 32]), truth);
    assert_ne!(root(&flipped(&model, home.path()), [1; 32]), truth);
}

/// An auditor that cannot run the model's chat template says nothing of the receipt.
#[test]
fn unknown_is_no_verdict() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let honest = engines(&model);
    let (_, engine) = honest.get(&model.id()).unwrap();
    let task = task(&model);
    let (prompt, generation) = answer(&honest, &model, &task, INPUT);
    let receipt = request::receipt(task.id, task.request.as_ref().unwrap(), &prompt, &generation);
    let task = Task { receipt: Some(receipt), ..task };
    let output = request::token_bytes(&generation.tokens);
    let audit = |model: &Model| check(model, engine, &task, INPUT, &output, &[8; 32], &NEVER);
    assert_eq!(audit(&model).unwrap().verdict, Verdict::Right);

    let none = Model::open(model.path()).unwrap();
    let error = audit(&none).unwrap_err();
    assert!(matches!(error, EngineError::Model(ModelError::Sandbox(_))), "{error}");
    let gone = Model::open(model.path()).unwrap().with_sandbox(Sandbox::new(home.path().join("gone")));
    let error = audit(&gone).unwrap_err();
    assert!(matches!(error, EngineError::Model(ModelError::Io { .. })), "{error}");
    // One that is stopped before it answers.
    let false_program = Model::open(model.path()).unwrap().with_sandbox(Sandbox::new("/bin/false".into()));
    let error = audit(&false_program).unwrap_err();
    assert!(error.to_string().contains("ended by the system: exit status: 1"), "{error}");
}

/// A template that takes more than an auditor gives can have been rendered by no worker; one that takes more than a
/// worker gives can be.
#[test]
fn what_a_worker_had_to_decline_is_wrong() {
    let home = tempfile::tempdir().unwrap();
    let honest = small_model(home.path());
    let engines = engines(&honest);
    let (_, engine) = engines.get(&honest.id()).unwrap();
    let large = "{% set x = 'x' * 150000000 %}{% set y = x ~ x %}{{ messages[0].content }}";
    let endless =
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    for (template, audited) in [(large, None), (endless, Some("needs more than 1024 MiB of memory"))] {
        let model = model_of(home.path(), &synthetic::with_template(template));
        let error = request::prompt(&model, InputKind::Chat, INPUT).unwrap_err();
        let declined = "stopped: it needs more than 256 MiB of memory";
        assert!(matches!(&error, InputError::Unreadable(reason) if reason.contains(declined)), "{error}");

        let task = task(&model);
        let ask = task.request.as_ref().unwrap();
        let generation = Generation {
            tokens: vec![1],
            finish: engine::Finish::Length,
            leaves: vec![[7; 32]],
            trace_root: [7; 32],
        };
        let receipt = request::receipt(task.id, ask, &[1, 2], &generation);
        let task = Task { receipt: Some(receipt), ..task };
        let auditor = Model::open(model.path()).unwrap().with_sandbox(sandbox().for_audits());
        let output = request::token_bytes(&generation.tokens);
        let found = check(&auditor, engine, &task, INPUT, &output, &[8; 32], &NEVER).unwrap();
        assert_eq!(found.verdict, Verdict::Wrong);
        let reason = audited.unwrap_or("the input is ");
        assert!(found.reason.contains(reason), "{found:?}");
    }
}

/// Numbers that overflow end an answer, and its receipt says so. The audit agrees, and with no other end.
#[test]
fn numbers_that_overflow() {
    let home = tempfile::tempdir().unwrap();
    let model = model_of(home.path(), &synthetic::overflowing());
    let honest = engines(&model);
    let (_, engine) = honest.get(&model.id()).unwrap();
    let task = task(&model);
    let (prompt, generation) = answer(&honest, &model, &task, INPUT);
    assert_eq!((generation.finish, generation.tokens.len()), (engine::Finish::Numeric, 0));
    let receipt = request::receipt(task.id, task.request.as_ref().unwrap(), &prompt, &generation);
    assert_eq!((receipt.finish(), receipt.output_tokens), (Finish::Numeric, 0));
    let audit = |receipt: Receipt, output: &[u32]| {
        let task = Task { receipt: Some(receipt), ..task.clone() };
        check(&model, engine, &task, INPUT, &request::token_bytes(output), &[8; 32], &NEVER).unwrap()
    };
    assert_eq!(audit(receipt.clone(), &[]).verdict, Verdict::Right);
    let mut stopped = receipt.clone();
    stopped.set_finish(Finish::Eos);
    assert_eq!(audit(stopped, &[]).verdict, Verdict::Wrong);
    let invented = Generation { tokens: vec![5], finish: engine::Finish::Length, ..generation };
    let receipt = request::receipt(task.id, task.request.as_ref().unwrap(), &prompt, &invented);
    assert_eq!(audit(receipt, &[5]).verdict, Verdict::Wrong);
}
