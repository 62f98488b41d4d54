//! Several tasks at once: computed together, one taken away, the process stopped in the middle and started again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use deepnode_proto::deepnode::tasks::v1::{InputKind, Task, TaskStatus};
use deepnode_worker::canon::{Digest, SamplingParams};
use deepnode_worker::engine::{EngineError, Generation};
use deepnode_worker::model::Model;
use deepnode_worker::request;
use deepnode_worker::run::{Engines, Executor};

use super::chain::{key, FakeChain};
use super::{addresses, ask, engines, small_model, until, Blocks, Running, USER};

/// Tells tokens slowly, and counts who does so at once.
struct Slowly {
    engines: Engines,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Executor for Slowly {
    fn models(&self) -> Vec<Digest> {
        self.engines.models()
    }

    fn model(&self, id: &Digest) -> Option<Arc<Model>> {
        self.engines.model(id)
    }

    fn generate(
        &self,
        task: &Task,
        prompt: &[u32],
        params: &SamplingParams,
        on_token: &mut dyn FnMut(u32),
        cancel: &AtomicBool,
    ) -> Result<Generation, EngineError> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        let mut slowly = |token| {
            on_token(token);
            for _ in 0..20 {
                if !cancel.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        };
        let made = self.engines.generate(task, prompt, params, &mut slowly, cancel);
        self.now.fetch_sub(1, Ordering::Relaxed);
        made
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_tasks_are_computed_together() {
    let home = tempfile::tempdir().unwrap();
    let model = small_model(home.path());
    let chain = FakeChain::new(key(1));
    let _blocks = Blocks::of(&chain);
    let (worker, user, _) = addresses();
    let texts: Vec<String> = (0..6).map(|n| format!("Tell me of the sea, part {n}.")).collect();
    let mut tasks: BTreeMap<u64, &String> = texts
        .iter()
        .map(|text| {
            let request = ask(&model, text.as_bytes(), InputKind::Text, 900_000);
            (chain.assign(&worker, &user, request, 60, text.as_bytes()), text)
        })
        .collect();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let slowly = Slowly { engines: engines(&model), now: now.clone(), most: most.clone() };
    let running = Running::draining(&chain, home.path(), slowly, true, Duration::from_millis(300)).await;
    until("all are computed at once", || most.load(Ordering::Relaxed) == 6).await;

    // The chain gives one to another worker: it is computed no further, and its user hears of it.
    let (lost, _) = tasks.pop_first().unwrap();
    let stream = running.client(USER).await.stream(lost).await.unwrap();
    {
        let mut state = chain.state.lock();
        let task = state.tasks.get_mut(&lost).unwrap();
        task.set_status(TaskStatus::Open);
        task.worker.clear();
    }
    until("it is given up", || now.load(Ordering::Relaxed) == 5).await;
    let last = tokio_stream::StreamExt::collect::<Vec<_>>(stream).await.pop().unwrap();
    assert!(last.unwrap_err().to_string().contains("taken from this worker"));
    assert!(chain.state.lock().receipts.is_empty());

    // The others do not end in the time to drain; the next process begins them again, and says the same.
    running.stop().await;
    until("nothing is computed any more", || now.load(Ordering::Relaxed) == 0).await;
    assert!(tasks.keys().all(|id| chain.task_now(*id).status() == TaskStatus::Accepted));
    let running = Running::start(&chain, home.path(), engines(&model), true).await;
    until("all have receipts", || tasks.keys().all(|id| chain.task_now(*id).receipt.is_some())).await;
    running.stop().await;
    assert_eq!(chain.state.lock().receipts.len(), 5);
    assert!(chain.task_now(lost).receipt.is_none());
    for (id, text) in tasks {
        let task = chain.task_now(id);
        let (prompt, generation) = super::verdicts::answer(&engines(&model), &model, &task, text.as_bytes());
        let expected = request::receipt(id, task.request.as_ref().unwrap(), &prompt, &generation);
        assert_eq!(task.receipt, Some(expected));
    }
}
