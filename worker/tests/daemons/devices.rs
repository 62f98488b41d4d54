//! A card that is lost in the middle of a task: a spare device ends it with the same bits; without one the worker gives
//! back what it can, and ends. So does an auditor.

use std::path::Path;
use std::sync::Arc;

use deepnode_proto::deepnode::audits::v1::{Phase, Verdict};
use deepnode_proto::deepnode::tasks::v1::{InputKind, TaskStatus};
use deepnode_worker::canon::reference::Reference;
use deepnode_worker::engine::Engine;
use deepnode_worker::model::Model;
use deepnode_worker::request;
use deepnode_worker::run::Engines;

use super::chain::{key, FakeChain};
use super::failing::Failing;
use super::{
    addresses, ask, engines, options, sandbox, small_model, until, Auditing, Blocks, Running, AUDITOR, TEXT,
};

/// Calls of the device that work: the prompt is computed, and some of the twelve tokens.
const CALLS: usize = 9;

/// Engines on a device that is lost after so many calls, with a spare one or not.
fn lost(folder: &Path, model: &Arc<Model>, calls: usize, spare: bool) -> Engines {
    let engine = |model: &Arc<Model>| {
        let engine = Engine::on(Failing::new(Reference::new(model.clone()), calls));
        let model = model.clone();
        Ok(match spare {
            true => engine.with_spare(move || Engine::new(model.clone(), options())),
            false => engine,
        })
    };
    Engines::load(folder, &[model.id()], &sandbox(), &engine).unwrap()
}

/// The receipt of a task's text, as an engine that works makes it.
async fn is_answered(chain: &FakeChain, model: &Arc<Model>, id: u64) {
    until("the receipt is there", || chain.task_now(id).receipt.is_some()).await;
    let task = chain.task_now(id);
    let (prompt, generation) = super::verdicts::answer(&engines(model), model, &task, TEXT.as_bytes());
    let expected = request::receipt(id, task.request.as_ref().unwrap(), &prompt, &generation);
    assert_eq!(task.receipt, Some(expected));
    assert_eq!(chain.state.lock().receipts.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spare_device_ends_a_task_with_the_same_bits() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    let _blocks = Blocks::of(&chain);
    let (worker, user, _) = addresses();
    let engines = lost(home.path(), &model, CALLS, true);
    let running = Running::start(&chain, home.path(), engines, true).await;
    let request = ask(&model, TEXT.as_bytes(), InputKind::Text, 900_000);
    let id = chain.assign(&worker, &user, request, 40, TEXT.as_bytes());
    is_answered(&chain, &model, id).await;
    assert_eq!(deepnode_client::serving::status(&running.endpoint).await.unwrap().stopping, "");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_spare_one_the_worker_gives_back_what_it_can_and_ends() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    let _blocks = Blocks::of(&chain);
    let (worker, user, _) = addresses();
    let request = || ask(&model, TEXT.as_bytes(), InputKind::Text, 900_000);
    // Its input has not come.
    let waiting = chain.assign(&worker, &user, request(), 40, b"");
    let running = Running::start(&chain, home.path(), lost(home.path(), &model, CALLS, false), true).await;
    let accepted = chain.assign(&worker, &user, request(), 40, TEXT.as_bytes());

    let Running { endpoint, running: worked, serving, stop } = running;
    let error = worked.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("fell off the bus"), "{error}");
    assert_eq!(
        deepnode_client::serving::status(&endpoint).await.unwrap().stopping,
        "the worker's device failed"
    );
    serving.abort();
    let _ = serving.await;
    drop(stop);
    // One goes to another worker at once, the other when its time is over, and nothing was said of either.
    assert_eq!(chain.task_now(waiting).status(), TaskStatus::Open);
    assert_eq!(chain.state.lock().declined[&waiting], "the worker's device failed");
    assert_eq!(chain.task_now(accepted).status(), TaskStatus::Accepted);
    assert!(chain.state.lock().receipts.is_empty());

    // Started again where a device works, the worker answers what it accepted.
    let running = Running::start(&chain, home.path(), engines(&model), true).await;
    is_answered(&chain, &model, accepted).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_without_a_device_says_nothing_and_ends() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    let _blocks = Blocks::of(&chain);
    let (worker, user, auditor) = addresses();
    let running = Running::start(&chain, home.path(), engines(&model), true).await;
    let request = ask(&model, TEXT.as_bytes(), InputKind::Text, 0);
    let id = chain.assign(&worker, &user, request, 40, TEXT.as_bytes());
    is_answered(&chain, &model, id).await;
    let audits =
        [chain.audit_receipt(id, &[auditor], [8; 32]), chain.audit_vector(model.id(), &[auditor], [5; 32])];
    for audit in audits {
        let engines = lost(home.path(), &model, 0, false);
        let Auditing { stop, running } = Auditing::start(&chain, home.path(), AUDITOR, engines).await;
        let error = running.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("fell off the bus"), "{error}");
        drop(stop);
        assert!(chain.audit_now(audit).members[0].commitment.is_empty());
    }
    // Started again where a device works, it is in time.
    let auditing = Auditing::start(&chain, home.path(), AUDITOR, engines(&model)).await;
    for audit in audits {
        until("the audit is over", || chain.audit_now(audit).phase() == Phase::Closed).await;
        assert_eq!(chain.audit_now(audit).members[0].verdict(), Verdict::Right);
    }
    auditing.stop().await;
    running.stop().await;
}
