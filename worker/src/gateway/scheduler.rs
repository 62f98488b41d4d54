//! Who computes when: one generation after the other, in the order of arrival, on a thread of its own.
//!
//! This is all that the rest knows: [`Scheduler::reserve`] a place, [`Place::submit`] a job, read [`Events`]; dropping
//! the events cancels the job. A scheduler that computes several at a time has its room here.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, watch};

use super::metrics::Metrics;
use crate::canon::SamplingParams;
use crate::engine::{Engine, EngineError, Finish, Request, Session, Stop};
use crate::metrics::Metrics as Gauges;
use crate::model::Model;

/// Least capacity of a session, in positions: a conversation that grows is seldom computed anew.
const LEAST_CAPACITY: usize = 2048;

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
    /// Most places besides the one that is computed.
    limit: usize,
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
    /// Starts the thread; `limit` requests may wait while one is computed.
    pub fn start(
        model: Arc<Model>,
        engine: Engine,
        limit: usize,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            limit,
            aborted: watch::Sender::new(false),
            metrics,
        });
        let worker = shared.clone();
        std::thread::Builder::new()
            .name("gateway".into())
            .spawn(move || Turns { model: &model, engine: &engine, shared: &worker, session: None }.run())?;
        Ok(Self { shared })
    }

    /// A place in the queue, taken before anything costly is done for a request.
    pub fn reserve(&self) -> Result<Place, Refused> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.places > self.shared.limit {
            let waiting = state.places - 1;
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

    /// Waits for the next job; none when the scheduler is gone.
    fn take(&self) -> Option<Waiting> {
        let mut state = self.state.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(next) = state.waiting.pop_front() {
                self.gauge(&state);
                return Some(next);
            }
            self.work.wait(&mut state);
        }
    }
}

/// The thread that computes.
struct Turns<'e> {
    model: &'e Model,
    engine: &'e Engine,
    shared: &'e Shared,
    /// The last sequence: what the next prompt shares with it, as the messages of a conversation so far, is not
    /// computed again. It has no influence on an answer.
    session: Option<Session<'e>>,
}

impl Turns<'_> {
    fn run(mut self) {
        let metrics = &self.shared.metrics;
        while let Some(Waiting { job, events, cancel, .. }) = self.shared.take() {
            let _running = Gauges::raise(&metrics.running);
            let began = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| self.compute(&job, &events, &cancel)));
            metrics.busy(began.elapsed());
            let count = |counter: &AtomicU64| Gauges::add(counter, 1);
            match outcome {
                Ok(Ok(())) => count(&metrics.finished),
                Ok(Err(EngineError::Cancelled)) => count(&metrics.cancelled),
                Ok(Err(error)) => {
                    self.session = None;
                    let _ = events.send(Err(Failure::Engine(error)));
                }
                Err(_) => {
                    self.session = None;
                    let _ = events.send(Err(Failure::Crashed));
                }
            }
        }
    }

    fn compute(
        &mut self,
        job: &Job,
        events: &mpsc::UnboundedSender<Result<Event, Failure>>,
        cancel: &AtomicBool,
    ) -> Result<(), EngineError> {
        let Job { prompt, choices, max_output, stop } = job;
        let metrics = &self.shared.metrics;
        let total = prompt.len() + *max_output as usize;
        let session = match self.session.take() {
            Some(session) if session.capacity() >= total => session,
            old => {
                // The old one goes first: there may be no room for both.
                drop(old);
                let context = self.engine.arch().context as usize;
                let capacity = total.next_power_of_two().max(LEAST_CAPACITY).min(context).max(total);
                self.engine.session(capacity)?
            }
        };
        let session = self.session.insert(session);
        Gauges::add(&metrics.prompt_tokens, prompt.len() as u64);
        for params in choices {
            let stop = Stop { strings: stop, pieces: self.model.tokenizer() };
            let request = Request { prompt, params, max_output: *max_output, stop };
            let mut on_token = |token| {
                Gauges::add(&metrics.output_tokens, 1);
                let _ = events.send(Ok(Event::Token(token)));
            };
            let generation = session.generate(&request, &mut on_token, cancel)?;
            let _ = events.send(Ok(Event::Finished(generation.finish)));
        }
        Ok(())
    }
}
