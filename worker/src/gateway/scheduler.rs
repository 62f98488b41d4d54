//! Who computes when: the runner computes the choices of several requests at once, in steps; more wait in the order of
//! arrival.
//!
//! This is all that the rest knows: [`Scheduler::reserve`] a place, [`Place::submit`] a job, read [`Events`]; dropping
//! the events cancels the job.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::metrics::Metrics;
use crate::canon::SamplingParams;
use crate::engine::{self, Engine, Event, Limits, Runner, Ticket};
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
    /// How many of the likeliest tokens to tell beside each token, where probabilities are wanted at all.
    pub logprobs: Option<usize>,
}

/// Why a job ends without its answers.
#[derive(Debug)]
pub enum Failure {
    /// The server is stopping.
    Stopping,
    Runner(engine::Failure),
}

/// Why no place is given.
#[derive(Debug)]
pub enum Refused {
    Full { waiting: usize, retry_after: u32 },
    Closed,
}

/// The places before a runner.
pub struct Scheduler {
    shared: Arc<Shared>,
    engine: Arc<Engine>,
}

struct Shared {
    runner: Runner,
    places: Mutex<Places>,
    /// Requests that are answered at once, and most places besides those.
    parallel: usize,
    queue: usize,
    aborted: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Places {
    taken: usize,
    closed: bool,
}

impl Scheduler {
    /// Starts the runner; `queue` requests may wait while `parallel` are computed.
    pub fn start(
        model: Arc<Model>,
        engine: Engine,
        parallel: usize,
        queue: usize,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let parallel = parallel.max(1);
        let (engine, observed) = (Arc::new(engine), metrics.clone());
        let limits = Limits { running: parallel, ..Limits::default() };
        let runner = Runner::start(engine.clone(), model, limits, move |load| observed.load(load))?;
        let places = Mutex::default();
        let aborted = watch::Sender::new(false);
        Ok(Self { shared: Arc::new(Shared { runner, places, parallel, queue, aborted, metrics }), engine })
    }

    /// A place, taken before anything costly is done for a request.
    pub fn reserve(&self) -> Result<Place, Refused> {
        let Shared { parallel, queue, .. } = *self.shared;
        let mut places = self.shared.places.lock();
        if places.closed {
            return Err(Refused::Closed);
        }
        if places.taken >= parallel + queue {
            let waiting = places.taken - parallel;
            return Err(Refused::Full { waiting, retry_after: self.shared.metrics.retry_after() });
        }
        places.taken += 1;
        Ok(Place { shared: self.shared.clone() })
    }

    pub fn is_open(&self) -> bool {
        !self.shared.places.lock().closed
    }

    /// Gives no more places; what has one is computed.
    pub fn close(&self) {
        self.shared.places.lock().closed = true;
    }

    /// Ends all jobs with [`Failure::Stopping`].
    pub fn abort(&self) {
        self.shared.aborted.send_replace(true);
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// One of the places; free again when dropped.
pub struct Place {
    shared: Arc<Shared>,
}

impl Place {
    /// Hands in a job, all of whose choices are computed at once: they share the prompt.
    pub fn submit(self, job: Job) -> Events {
        let Job { prompt, choices, max_output, stop, logprobs } = job;
        let (sender, receiver) = mpsc::unbounded_channel();
        Gauges::add(&self.shared.metrics.prompt_tokens, prompt.len() as u64);
        let open = choices.len() as u64;
        let tickets = (0..)
            .zip(choices)
            .map(|(choice, params)| {
                let (prompt, stop, sender) = (prompt.clone(), stop.clone(), sender.clone());
                let job = engine::Job { prompt, params, max_output, stop, logprobs };
                self.shared.runner.submit(job, move |told| {
                    let _ = sender.send(told.map(|event| (choice, event)));
                })
            })
            .collect();
        let aborted = self.shared.aborted.subscribe();
        Events { open, _tickets: tickets, receiver, aborted, place: self }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.places.lock().taken -= 1;
    }
}

/// What happens to a job, as it happens. Unbounded but for the job itself: nobody who reads slowly stops the engine.
pub struct Events {
    /// Choices that have not ended.
    open: u64,
    _tickets: Vec<Ticket>,
    receiver: mpsc::UnboundedReceiver<Result<(u32, Event), engine::Failure>>,
    aborted: watch::Receiver<bool>,
    place: Place,
}

impl Events {
    /// The next event with its choice; none after the last one.
    pub async fn next(&mut self) -> Option<Result<(u32, Event), Failure>> {
        let told = tokio::select! {
            biased;
            told = self.receiver.recv() => told?,
            _ = self.aborted.wait_for(|aborted| *aborted) => return Some(Err(Failure::Stopping)),
        };
        let metrics = &self.place.shared.metrics;
        match &told {
            Ok((_, Event::Token { .. })) => Gauges::add(&metrics.output_tokens, 1),
            Ok((_, Event::Finished(_))) => {
                self.open -= 1;
                Gauges::add(&metrics.finished, 1);
            }
            Err(_) => self.open = 0,
        }
        Some(told.map_err(Failure::Runner))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        Gauges::add(&self.place.shared.metrics.cancelled, self.open);
    }
}
