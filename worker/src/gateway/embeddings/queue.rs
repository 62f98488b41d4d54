//! Who computes when: a thread of its own computes the texts of several requests at once, in steps that take from each
//! in turn, so that a long request does not hold up a short one.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch, OwnedSemaphorePermit, Semaphore};

use super::super::errors::{ApiError, Result};
use crate::canon::Embedding;
use crate::engine::Embedder;
use crate::metrics::{Exposition, Metrics as Gauges};

/// Positions that a step computes, unless one text alone has more.
const STEP: usize = 512;

/// The queue and its thread, which ends with it.
pub struct Queue {
    jobs: mpsc::UnboundedSender<Job>,
    /// One for each request that is computed or waits: this is what bounds the channel.
    places: Arc<Semaphore>,
    most: usize,
    open: AtomicBool,
    aborted: watch::Sender<bool>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    texts: AtomicU64,
    tokens: AtomicU64,
    requests: AtomicU64,
    busy_millis: AtomicU64,
}

/// One request: its texts, of which the first `vectors.len()` are computed.
struct Job {
    texts: Vec<Vec<u32>>,
    vectors: Vec<Embedding>,
    /// How many were taken into a step.
    taken: usize,
    reply: oneshot::Sender<std::result::Result<Vec<Embedding>, String>>,
}

/// A place in the queue; free again when dropped.
pub struct Place<'q> {
    queue: &'q Queue,
    _permit: OwnedSemaphorePermit,
}

impl Queue {
    /// Starts the thread; at most `places` requests are computed or wait.
    pub fn start(embedder: Embedder, places: usize) -> std::io::Result<Self> {
        let (jobs, arriving) = mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let mut steps = Steps { embedder, arriving, open: VecDeque::new(), counters: counters.clone() };
        std::thread::Builder::new().name("embeddings".into()).spawn(move || while steps.next() {})?;
        Ok(Self {
            jobs,
            places: Arc::new(Semaphore::new(places)),
            most: places,
            open: AtomicBool::new(true),
            aborted: watch::Sender::new(false),
            counters,
        })
    }

    /// A place, taken before anything costly is done for a request.
    pub fn reserve(&self) -> Result<Place<'_>> {
        if !self.is_open() {
            return Err(ApiError::stopping());
        }
        match self.places.clone().try_acquire_owned() {
            Ok(permit) => Ok(Place { queue: self, _permit: permit }),
            Err(_) => Err(ApiError::full(self.most, self.counters.retry_after())),
        }
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Gives no more places; what has one is computed.
    pub fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    /// Ends all requests with an error.
    pub fn abort(&self) {
        self.aborted.send_replace(true);
    }

    /// In Prometheus' format.
    pub fn metrics(&self) -> String {
        let mut text = Exposition::default();
        let Counters { texts, tokens, requests, busy_millis } = &*self.counters;
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
        let mut put = |name, kind, help, value| text.put(name, kind, help, &[("", value)]);
        put(
            "gateway_embedding_requests_total",
            "counter",
            "Requests for embeddings that were computed.",
            of(requests),
        );
        put("gateway_embedded_texts_total", "counter", "Texts that became vectors.", of(texts));
        put("gateway_embedded_tokens_total", "counter", "Tokens of these texts.", of(tokens));
        let seconds = of(busy_millis) / 1000.0;
        put("gateway_embedding_busy_seconds_total", "counter", "Time spent computing vectors.", seconds);
        let taken = (self.most - self.places.available_permits()) as f64;
        put("gateway_embedding_places", "gauge", "Requests for embeddings that are computed or wait.", taken);
        text.0
    }
}

impl Counters {
    /// Seconds after which a place may be free, from what requests took so far.
    fn retry_after(&self) -> u32 {
        let requests = self.requests.load(Ordering::Relaxed).max(1);
        (self.busy_millis.load(Ordering::Relaxed) / 1000 / requests).clamp(1, 60) as u32
    }
}

impl Place<'_> {
    /// The vectors of the texts. Dropping the future cancels what is not computed yet; the place is taken until it is
    /// dropped, since the vectors take memory.
    pub async fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Embedding>> {
        let (reply, vectors) = oneshot::channel();
        let job = Job { vectors: Vec::with_capacity(texts.len()), texts, taken: 0, reply };
        let mut aborted = self.queue.aborted.subscribe();
        let gone = || ApiError::internal("the encoder's thread is gone");
        self.queue.jobs.send(job).map_err(|_| gone())?;
        tokio::select! {
            biased;
            vectors = vectors => vectors.map_err(|_| gone())?.map_err(ApiError::internal),
            _ = aborted.wait_for(|aborted| *aborted) => Err(ApiError::stopping()),
        }
    }
}

/// The thread that computes.
struct Steps {
    embedder: Embedder,
    arriving: mpsc::UnboundedReceiver<Job>,
    open: VecDeque<Job>,
    counters: Arc<Counters>,
}

impl Steps {
    /// The next step; waits for a job where there is none. False when the queue is gone.
    fn next(&mut self) -> bool {
        if self.open.is_empty() {
            match self.arriving.blocking_recv() {
                Some(job) => self.open.push_back(job),
                None => return false,
            }
        }
        while let Ok(job) = self.arriving.try_recv() {
            self.open.push_back(job);
        }
        // Nobody waits for these any more.
        self.open.retain(|job| !job.reply.is_closed());

        let taken = self.take();
        let texts: Vec<&[u32]> = taken.iter().map(|(job, text)| &self.open[*job].texts[*text][..]).collect();
        if texts.is_empty() {
            return true;
        }
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.embedder.embed(&texts)));
        let Counters { busy_millis, tokens, texts: count, .. } = &*self.counters;
        Gauges::add(busy_millis, began.elapsed().as_millis() as u64);
        Gauges::add(tokens, texts.iter().map(|text| text.len() as u64).sum());
        Gauges::add(count, texts.len() as u64);
        match outcome {
            Ok(Ok(vectors)) => {
                for ((job, _), vector) in taken.iter().zip(vectors) {
                    self.open[*job].vectors.push(vector);
                }
                self.reply();
            }
            Ok(Err(error)) => self.fail(&error.to_string()),
            Err(_) => self.fail("the encoder crashed on texts that were computed together"),
        }
        true
    }

    /// The texts of the next step, one of each job in turn: which job, which of its texts.
    fn take(&mut self) -> Vec<(usize, usize)> {
        let (mut taken, mut positions, mut more) = (Vec::new(), 0, true);
        while more {
            more = false;
            for (n, job) in self.open.iter_mut().enumerate() {
                let Some(text) = job.texts.get(job.taken) else { continue };
                if !taken.is_empty() && positions + text.len() > STEP {
                    return taken;
                }
                positions += text.len();
                taken.push((n, job.taken));
                job.taken += 1;
                more = true;
            }
        }
        taken
    }

    /// Answers the jobs that are whole. Those that were first in this step are last in the next.
    fn reply(&mut self) {
        for _ in 0..self.open.len() {
            let Some(job) = self.open.pop_front() else { return };
            if job.vectors.len() < job.texts.len() {
                self.open.push_back(job);
                continue;
            }
            Gauges::add(&self.counters.requests, 1);
            let _ = job.reply.send(Ok(job.vectors));
        }
        let len = self.open.len();
        self.open.rotate_left(1.min(len));
    }

    /// Ends all jobs of which a text was in the step.
    fn fail(&mut self, why: &str) {
        let (broken, whole) =
            std::mem::take(&mut self.open).into_iter().partition(|job: &Job| job.taken > job.vectors.len());
        self.open = whole;
        let broken: VecDeque<Job> = broken;
        for job in broken {
            let _ = job.reply.send(Err(why.to_string()));
        }
    }
}
