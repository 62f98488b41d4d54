//! A thread that computes generations of many askers together.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Batch, Engine, EngineError, Event, Job, Limits, Pieces};
use crate::canon::DeviceError;

/// Hears what happens to a job; after an error nothing more.
type Listener = Box<dyn FnMut(Result<Event, Failure>) + Send>;

/// Why a job ends without its answer.
#[derive(Debug)]
pub enum Failure {
    Engine(EngineError),
    Crashed,
}

/// What the thread did in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Time that it took.
    pub busy: Duration,
    /// Generations that are computed now, and that wait.
    pub running: usize,
    pub waiting: usize,
}

/// The thread, which ends with this.
pub struct Runner {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    arrived: Vec<Arrived>,
    submitted: u64,
    ended: bool,
}

struct Arrived {
    id: u64,
    job: Job,
    listener: Listener,
    cancel: Arc<AtomicBool>,
}

/// A job that was handed in. Dropping it cancels the job.
#[derive(Debug)]
pub struct Ticket {
    cancel: Arc<AtomicBool>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Runner {
    /// Starts the thread. `pieces` are what stop strings are looked for in; `observe` hears of each step.
    pub fn start(
        engine: Arc<Engine>,
        pieces: Arc<dyn Pieces + Send>,
        limits: Limits,
        observe: impl Fn(Load) + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let begin =
            move || Steps { shared: &theirs, open: BTreeMap::new() }.run(&engine, &*pieces, limits, &observe);
        std::thread::Builder::new().name("runner".into()).spawn(begin)?;
        Ok(Self { shared })
    }

    /// Hands in a job. `listener` hears what happens to it, in the runner's thread, which it must not hold up.
    pub fn submit(&self, job: Job, listener: impl FnMut(Result<Event, Failure>) + Send + 'static) -> Ticket {
        let cancel = Arc::new(AtomicBool::new(false));
        let mut state = self.shared.state.lock();
        let id = state.submitted;
        state.submitted += 1;
        state.arrived.push(Arrived { id, job, listener: Box::new(listener), cancel: cancel.clone() });
        self.shared.work.notify_one();
        Ticket { cancel }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    /// What arrived; waits for something where `idle`. None when the runner is gone.
    fn take(&self, idle: bool) -> Option<Vec<Arrived>> {
        let mut state = self.state.lock();
        while idle && !state.ended && state.arrived.is_empty() {
            self.work.wait(&mut state);
        }
        (!state.ended).then(|| std::mem::take(&mut state.arrived))
    }
}

struct Steps<'s> {
    shared: &'s Shared,
    open: BTreeMap<u64, (Listener, Arc<AtomicBool>)>,
}

impl Steps<'_> {
    fn run(mut self, engine: &Engine, pieces: &dyn Pieces, limits: Limits, observe: &dyn Fn(Load)) {
        let fresh = || Batch::new(engine, pieces, limits);
        let mut batch = fresh();
        while let Some(arrived) = self.shared.take(self.open.is_empty()) {
            let began = Instant::now();
            let step = AssertUnwindSafe(|| {
                arrived.into_iter().for_each(|one| self.begin(one, &mut batch));
                self.cancel(&mut batch);
                self.step(&mut batch)
            });
            match catch_unwind(step) {
                Ok(Ok(())) => {}
                // There is no device to go on with: nobody waits for one that may never come.
                Ok(Err(error)) => {
                    let error = error.to_string();
                    self.fail(|| Failure::Engine(EngineError::Device(DeviceError(error.clone()))));
                    batch = fresh();
                }
                Err(_) => {
                    self.fail(|| Failure::Crashed);
                    let broken = std::mem::replace(&mut batch, fresh());
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
                }
            }
            observe(Load { busy: began.elapsed(), running: batch.running(), waiting: batch.waiting() });
        }
    }

    fn begin(&mut self, arrived: Arrived, batch: &mut Batch<'_>) {
        let Arrived { id, job, mut listener, cancel } = arrived;
        match batch.push(id, job) {
            Ok(()) => {
                self.open.insert(id, (listener, cancel));
            }
            Err(error) => listener(Err(Failure::Engine(error))),
        }
    }

    /// Forgets jobs that nobody waits for any more.
    fn cancel(&mut self, batch: &mut Batch<'_>) {
        self.open.retain(|id, (_, cancel)| {
            let cancelled = cancel.load(Ordering::Relaxed);
            if cancelled {
                batch.cancel(*id);
            }
            !cancelled
        });
    }

    fn step(&mut self, batch: &mut Batch<'_>) -> Result<(), EngineError> {
        batch.step(&mut |id, event| {
            let last = matches!(event, Event::Finished(_));
            if let Some((listener, _)) = self.open.get_mut(&id) {
                listener(Ok(event));
            }
            if last {
                self.open.remove(&id);
            }
        })
    }

    /// Ends all jobs without their answers.
    fn fail(&mut self, why: impl Fn() -> Failure) {
        for (_, (mut listener, _)) in std::mem::take(&mut self.open) {
            listener(Err(why()));
        }
    }
}
