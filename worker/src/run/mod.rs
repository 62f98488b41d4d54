//! `run`: the worker. It looks what the chain assigned to it, and takes each task from its input to its receipt.
//!
//! Nothing hangs on what this process saw: every step is decided from the chain's state and the journal, so a restart
//! or a lost connection just looks again.

mod executor;
mod housekeeping;
mod register;
mod task;

pub use executor::{Engines, Executor};
pub use register::{check_alone, Registration};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use deepnode_proto::deepnode::tasks::v1::{Receipt, Task, TaskStatus};
use deepnode_proto::Message;
use deepnode_tx::Address;
use parking_lot::Mutex;
use tokio::sync::{watch, Notify, Semaphore};

use crate::blobs::Blobs;
use crate::canon::{DeviceError, Digest};
use crate::chain::Chain;
use crate::engine::EngineError;
use crate::journal::TaskJournal;
use crate::metrics::Metrics;
use crate::model::{Model, TextStream};
use crate::request;
use crate::serving::Live;

/// How often the worker looks, and how much it does at once.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// At its tasks.
    pub poll: Duration,
    /// At its registration, its audits, its old blobs.
    pub housekeeping: Duration,
    /// How long a task that failed waits for another attempt.
    pub retry: Duration,
    /// How long tasks under way may go on after the signal to stop.
    pub drain: Duration,
    /// Tasks that generate at once; more that are accepted wait for their turn.
    pub parallel: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(300),
            housekeeping: Duration::from_secs(2),
            retry: Duration::from_secs(2),
            drain: Duration::from_secs(60),
            parallel: 64,
        }
    }
}

/// Why a worker accepts no more tasks, as users are told.
const STOPPING: &str = "the worker is stopping";
const FAILED: &str = "the worker's device failed";

/// One worker: shared by its loop, its tasks and its service.
pub struct Worker {
    pub(crate) chain: Arc<dyn Chain>,
    executor: Arc<dyn Executor>,
    journal: Mutex<TaskJournal>,
    blobs: Blobs,
    registration: Registration,
    pace: Pace,
    /// Answers that someone may follow.
    lives: Mutex<BTreeMap<u64, Arc<Live>>>,
    /// Tasks that are being driven.
    driven: Mutex<BTreeSet<u64>>,
    /// Audits that were shown blobs, so that they are sent once.
    shown: Mutex<BTreeSet<u64>>,
    /// Tells that an input came.
    inputs: Notify,
    /// Tasks that generate at once: the engine computes them together.
    turns: Semaphore,
    /// Set when the worker was told to stop, or cannot go on: what it has not accepted goes back to the chain.
    stopping: OnceLock<&'static str>,
    /// What a device failed with that has no spare one.
    failed: watch::Sender<Option<DeviceError>>,
    /// Ends generations when the time to drain is over.
    cancel: AtomicBool,
    pub metrics: Arc<Metrics>,
}

impl Worker {
    pub fn new(
        chain: Arc<dyn Chain>,
        executor: Arc<dyn Executor>,
        journal: TaskJournal,
        blobs: Blobs,
        registration: Registration,
        pace: Pace,
    ) -> Arc<Self> {
        Arc::new(Self {
            chain,
            executor,
            journal: Mutex::new(journal),
            blobs,
            registration,
            pace,
            lives: Mutex::default(),
            driven: Mutex::default(),
            shown: Mutex::default(),
            inputs: Notify::new(),
            turns: Semaphore::new(pace.parallel as usize),
            stopping: OnceLock::new(),
            failed: watch::Sender::new(None),
            cancel: AtomicBool::new(false),
            metrics: Arc::default(),
        })
    }

    pub fn address(&self) -> Address {
        self.chain.address()
    }

    pub fn models(&self) -> Vec<Digest> {
        self.executor.models()
    }

    /// Works until `stop` becomes true, or a device fails that has no spare one: the error. Then tasks that are accepted
    /// get the time to drain, others are given back. What is not done then goes on after a restart.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) -> Result<(), DeviceError> {
        let keeper = tokio::spawn(self.clone().keep());
        let mut poll = tokio::time::interval(self.pace.poll);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reachable = true;
        let mut failed = self.failed.subscribe();
        let mut deadline = None;
        loop {
            tokio::select! {
                _ = poll.tick() => {}
                () = self.chain.next_block() => {}
                _ = stop.wait_for(|stop| *stop), if deadline.is_none() => {
                    self.accept_no_more(STOPPING);
                    deadline = Some(Instant::now() + self.pace.drain);
                }
                _ = failed.wait_for(Option::is_some), if deadline.is_none() => {
                    deadline = Some(Instant::now() + self.pace.drain);
                }
            }
            if let Some(deadline) = deadline {
                if self.driven.lock().is_empty() || Instant::now() >= deadline {
                    break;
                }
            }
            match self.chain.tasks_of(&self.address()).await {
                Ok(tasks) => {
                    if !reachable {
                        tracing::info!("the node answers again");
                    }
                    reachable = true;
                    for task in tasks {
                        self.take(task);
                    }
                }
                Err(error) => {
                    if reachable {
                        tracing::warn!(%error, "cannot ask for tasks; trying on");
                    }
                    reachable = false;
                }
            }
        }
        self.cancel.store(true, Ordering::Relaxed);
        keeper.abort();
        // Generations notice within a step; their threads must not outlive the journal's lock.
        let all = self.turns.acquire_many(self.pace.parallel);
        let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
        let failed = self.failed.borrow().clone();
        failed.map_or(Ok(()), Err)
    }

    /// Why this worker accepts no more tasks; none while it does.
    pub(crate) fn stopping(&self) -> Option<&'static str> {
        self.stopping.get().copied()
    }

    fn accept_no_more(&self, reason: &'static str) {
        if self.stopping.set(reason).is_ok() {
            self.metrics.stopping.store(1, Ordering::Relaxed);
            self.inputs.notify_waiters();
            tracing::info!(under_way = self.driven.lock().len(), reason, "no new tasks");
        }
    }

    /// A device failed that has no spare one.
    fn device_failed(&self, error: &DeviceError) {
        self.accept_no_more(FAILED);
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                tracing::error!(%error, "the device failed: this process ends when what is under way has ended");
                *failed = Some(error.clone());
            }
            first
        });
    }

    /// Begins to drive a task, unless that is done already.
    fn take(self: &Arc<Self>, task: Task) {
        let due = match task.status() {
            TaskStatus::Assigned => true,
            // Where a device failed, what is not computed yet is left to the next process.
            TaskStatus::Accepted => {
                let computed = || self.journal.lock().get(task.id).is_some_and(|t| t.receipt.is_some());
                self.failed.borrow().is_none() || computed()
            }
            _ => false,
        };
        if !due || !self.driven.lock().insert(task.id) {
            return;
        }
        let worker = self.clone();
        tokio::spawn(async move {
            let id = task.id;
            if let Err(error) = worker.drive(task).await {
                if worker.cancelled() {
                    return;
                }
                tracing::error!(
                    task = id,
                    error = format!("{error:#}"),
                    "a step failed; it will be tried again"
                );
                Metrics::add(&worker.metrics.failed, 1);
                match error.downcast_ref() {
                    Some(EngineError::Device(error)) => worker.device_failed(error),
                    _ => tokio::time::sleep(worker.pace.retry).await,
                }
            }
            worker.driven.lock().remove(&id);
        });
    }

    /// Keeps an input that was checked against the task's digest; answers the tokens it has, or why it cannot be
    /// read (then the task will be declined, for which the input is needed too).
    pub(crate) async fn take_input(
        self: &Arc<Self>,
        task: Task,
        input: Vec<u8>,
    ) -> anyhow::Result<Result<u32, String>> {
        let ask = task.request.unwrap_or_default();
        let id = request::digest(&ask.model_id).unwrap_or_default();
        let kind = ask.input_kind();
        let worker = self.clone();
        let keep = move || -> anyhow::Result<Vec<u8>> {
            let digest = worker.blobs.put(&input)?;
            worker.journal.lock().input(task.id, request::message_digest(&ask), digest)?;
            Ok(input)
        };
        let input = tokio::task::spawn_blocking(keep).await??;
        self.inputs.notify_waiters();
        let Some(model) = self.executor.model(&id) else {
            return Ok(Err(format!("this worker has not loaded model {}", hex::encode(id))));
        };
        let count = move |model: &Model| request::prompt(model, kind, &input).map(|ids| ids.len() as u32);
        Ok(model.reading(count).await?.map_err(|error| error.to_string()))
    }

    /// The answer of a task of this worker, from the beginning; none if it is over and forgotten.
    pub(crate) fn live(&self, task: &Task) -> anyhow::Result<Option<Arc<Live>>> {
        let mut lives = self.lives.lock();
        if let Some(live) = lives.get(&task.id) {
            return Ok(Some(live.clone()));
        }
        let live = Arc::new(Live::default());
        let state = self.journal.lock().get(task.id).cloned().unwrap_or_default();
        if let (Some(receipt), Some(output)) = (&state.receipt, &state.output) {
            // It was generated before a restart.
            let receipt = Receipt::decode(&**receipt)?;
            let model = request::digest(&receipt.model_id).and_then(|id| self.executor.model(&id));
            let tokens = self.blobs.get(output)?.as_deref().and_then(request::token_ids);
            let (Some(model), Some(tokens)) = (model, tokens) else {
                return Ok(None);
            };
            let mut text = TextStream::default();
            for token in tokens {
                live.push(token, text.push(model.tokenizer(), token));
            }
            live.finish(text.finish(), receipt);
        } else if !matches!(task.status(), TaskStatus::Assigned | TaskStatus::Accepted) {
            return Ok(None);
        }
        lives.insert(task.id, live.clone());
        Ok(Some(live))
    }

    /// A blob of a task that this worker keeps.
    pub(crate) fn blob(&self, task: u64, digest: &Digest) -> std::io::Result<Option<Vec<u8>>> {
        let known = self.journal.lock().get(task).is_some_and(|t| t.blobs().any(|b| b == *digest));
        if !known {
            return Ok(None);
        }
        self.blobs.get(digest)
    }
}
