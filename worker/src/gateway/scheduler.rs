//! Who computes when: a thread of its own computes several requests at once, in steps; more wait in the order of arrival.
//!
//! This is all that the rest knows: [`Scheduler::reserve`] a place, [`Place::submit`] a job, read [`Events`]; dropping
//! the events cancels the job.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, watch};

use super::metrics::Metrics;
use crate::canon::{DeviceError, SamplingParams};
use crate::engine::{self, Batch, Engine, EngineError, Finish, Limits};
use crate::metrics::Metrics as Gauges;
use crate::model::Model;

/// What to generate: one or more answers to one prompt.
#[derive(Debug)]
pub struct Job {
    pub prompt: Vec<u32>,
    /// How to sample each answer.
    pub choices: Vec<SamplingParams>,
    pub max_output: u32,
    pub stop: Vec<String>,
}

/// What happens to a job. The choices come one after the other, each with its end.
#[derive(Debug)]
pub enum Event {
    Token(u32),
    Finished(Finish),
}

/// Why a job ends without its answers.
#[derive(Debug)]
pub enum Failure {
    /// The server is stopping.
    Stopping,
    Engine(EngineError),
    Crashed,
}

/// Why no place is given.
#[derive(Debug)]
pub enum Refused {
    Full { waiting: usize, retry_after: u32 },
    Closed,
}

/// The queue and its thread, which ends with it.
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Most jobs that are computed at once.
    parallel: usize,
    /// Most places besides those.
    queue: usize,
    aborted: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Places that are taken: of jobs that wait, are computed, or have yet to be submitted.
    places: usize,
    submitted: u64,
    closed: bool,
    ended: bool,
}

struct Waiting {
    id: u64,
    job: Job,
    events: mpsc::UnboundedSender<Result<Event, Failure>>,
    cancel: Arc<AtomicBool>,
}

impl Scheduler {
    /// Starts the thread; `queue` requests may wait while `parallel` are computed.
    pub fn start(
        model: Arc<Model>,
        engine: Engine,
        parallel: usize,
        queue: usize,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            parallel: parallel.max(1),
            queue,
            aborted: watch::Sender::new(false),
            metrics,
        });
        let worker = shared.clone();
        std::thread::Builder::new().name("gateway".into()).spawn(move || {
            Steps { model: &model, engine: &engine, shared: &worker, open: BTreeMap::new() }.run()
        })?;
        Ok(Self { shared })
    }

    /// A place in the queue, taken before anything costly is done for a request.
    pub fn reserve(&self) -> Result<Place, Refused> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let Shared { parallel, queue, .. } = *self.shared;
        if state.places >= parallel + queue {
            let waiting = state.places - parallel;
            return Err(Refused::Full { waiting, retry_after: self.shared.metrics.retry_after() });
        }
        state.places += 1;
        Ok(Place { shared: self.shared.clone() })
    }

    pub fn is_open(&self) -> bool {
        !self.shared.state.lock().closed
    }

    /// Gives no more places; what has one is computed.
    pub fn close(&self) {
        self.shared.state.lock().closed = true;
    }

    /// Ends all jobs with [`Failure::Stopping`].
    pub fn abort(&self) {
        self.shared.aborted.send_replace(true);
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.ended = true;
        self.shared.work.notify_all();
    }
}

/// One of the places; free again when dropped.
pub struct Place {
    shared: Arc<Shared>,
}

impl Place {
    /// Queues a job.
    pub fn submit(self, job: Job) -> Events {
        let shared = self.shared.clone();
        let (sender, receiver) = mpsc::unbounded_channel();
        let cancel = Arc::new(AtomicBool::new(false));
        let mut state = shared.state.lock();
        let id = state.submitted;
        state.submitted += 1;
        state.waiting.push_back(Waiting { id, job, events: sender, cancel: cancel.clone() });
        shared.gauge(&state);
        shared.work.notify_one();
        drop(state);
        Events { place: self, id, receiver, cancel, aborted: shared.aborted.subscribe() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.state.lock().places -= 1;
    }
}

/// What happens to a job, as it happens. Unbounded but for the job itself: nobody who reads slowly stops the engine.
pub struct Events {
    place: Place,
    id: u64,
    receiver: mpsc::UnboundedReceiver<Result<Event, Failure>>,
    cancel: Arc<AtomicBool>,
    aborted: watch::Receiver<bool>,
}

impl Events {
    /// The next event; none after the last one.
    pub async fn next(&mut self) -> Option<Result<Event, Failure>> {
        tokio::select! {
            biased;
            event = self.receiver.recv() => event,
            _ = self.aborted.wait_for(|aborted| *aborted) => Some(Err(Failure::Stopping)),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        let shared = &self.place.shared;
        let mut state = shared.state.lock();
        state.waiting.retain(|waiting| waiting.id != self.id);
        shared.gauge(&state);
    }
}

impl Shared {
    fn gauge(&self, state: &State) {
        self.metrics.queued.store(state.waiting.len() as u64, Ordering::Relaxed);
    }

    /// The next jobs, at most `most`; waits for one where `idle`. None when the scheduler is gone.
    fn take(&self, most: usize, idle: bool) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        while idle && !state.ended && state.waiting.is_empty() {
            self.work.wait(&mut state);
        }
        if state.ended {
            return None;
        }
        let most = most.min(state.waiting.len());
        let taken = state.waiting.drain(..most).collect();
        self.gauge(&state);
        Some(taken)
    }
}

/// The thread that computes.
struct Steps<'e> {
    model: &'e Model,
    engine: &'e Engine,
    shared: &'e Shared,
    open: BTreeMap<u64, Open>,
}

/// A job that is computed.
struct Open {
    prompt: Vec<u32>,
    /// Choices that have yet to be computed, one after the other: they share the prompt.
    choices: VecDeque<SamplingParams>,
    max_output: u32,
    stop: Vec<String>,
    events: mpsc::UnboundedSender<Result<Event, Failure>>,
    cancel: Arc<AtomicBool>,
}

impl Open {
    /// What the engine computes for the next choice; none after the last one.
    fn next(&mut self) -> Option<engine::Job> {
        Some(engine::Job {
            prompt: self.prompt.clone(),
            params: self.choices.pop_front()?,
            max_output: self.max_output,
            stop: self.stop.clone(),
            logprobs: None,
        })
    }
}

impl<'e> Steps<'e> {
    fn run(mut self) {
        let limits = Limits { running: self.shared.parallel, ..Limits::default() };
        let fresh = || Batch::new(self.engine, self.model.tokenizer(), limits);
        let mut batch = fresh();
        while let Some(arrived) =
            self.shared.take(self.shared.parallel - self.open.len(), self.open.is_empty())
        {
            arrived.into_iter().for_each(|waiting| self.begin(waiting, &mut batch));
            self.cancel(&mut batch);
            let began = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| self.step(&mut batch)));
            self.shared.metrics.busy(began.elapsed());
            match outcome {
                Ok(Ok(())) => {}
                // What is left of the batch is not known: nobody gets an answer from it.
                Ok(Err(error)) => {
                    self.fail(|| Failure::Engine(EngineError::Device(DeviceError(error.to_string()))));
                    batch = fresh();
                }
                Err(_) => {
                    self.fail(|| Failure::Crashed);
                    let broken = std::mem::replace(&mut batch, fresh());
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
                }
            }
            self.shared.metrics.running.store(self.open.len() as u64, Ordering::Relaxed);
        }
    }

    fn begin(&mut self, waiting: Waiting, batch: &mut Batch<'e>) {
        let Waiting { id, job: Job { prompt, choices, max_output, stop }, events, cancel } = waiting;
        Gauges::add(&self.shared.metrics.prompt_tokens, prompt.len() as u64);
        let mut open = Open { prompt, choices: choices.into(), max_output, stop, events, cancel };
        let Some(first) = open.next() else { return };
        match batch.push(id, first) {
            Ok(()) => {
                self.open.insert(id, open);
            }
            Err(error) => {
                let _ = open.events.send(Err(Failure::Engine(error)));
            }
        }
    }

    /// Forgets jobs that nobody waits for any more.
    fn cancel(&mut self, batch: &mut Batch<'e>) {
        self.open.retain(|id, open| {
            let cancelled = open.cancel.load(Ordering::Relaxed);
            if cancelled {
                batch.cancel(*id);
                Gauges::add(&self.shared.metrics.cancelled, 1);
            }
            !cancelled
        });
    }

    fn step(&mut self, batch: &mut Batch<'e>) -> Result<(), EngineError> {
        let (open, metrics) = (&mut self.open, &self.shared.metrics);
        let mut ended = Vec::new();
        batch.step(&mut |id, event| {
            let Some(open) = open.get(&id) else { return };
            let event = match event {
                engine::Event::Token { token, .. } => {
                    Gauges::add(&metrics.output_tokens, 1);
                    Event::Token(token)
                }
                engine::Event::Finished(generation) => {
                    ended.push(id);
                    Event::Finished(generation.finish)
                }
            };
            let _ = open.events.send(Ok(event));
        })?;
        for id in ended {
            match open.get_mut(&id).and_then(Open::next) {
                Some(job) => batch.push(id, job)?,
                None => {
                    open.remove(&id);
                    Gauges::add(&metrics.finished, 1);
                }
            }
        }
        Ok(())
    }

    /// Ends all jobs without their answers.
    fn fail(&mut self, why: impl Fn() -> Failure) {
        for (_, open) in std::mem::take(&mut self.open) {
            let _ = open.events.send(Err(why()));
        }
    }
}
