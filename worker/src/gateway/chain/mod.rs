//! Requests as tasks of a chain: one task for each choice, paid by one key within a budget.
//!
//! A request's tasks run in a driver of its own, which outlives the client that asked: what was spent is written down whoever
//! still waits for the answer.

mod bills;
mod driver;
mod ledger;
mod proof;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use deepnode_client::{task, Client, ClientError, Options as Sending};
use deepnode_proto::deepnode::models::v1::ModelStatus;
use deepnode_tx::SigningKey;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch, Semaphore};

use bills::{Bill, Bills, Lock};
pub use ledger::{Ledger, OverBudget};
pub use proof::Proof;

use super::backend::Event;
use super::errors::{ApiError, Result};
use super::keys::Caller;
use super::metrics::Metrics;
use super::options::Options;
use super::scheduler::Job;
use crate::engine::Finish;
use crate::metrics::Exposition;
use crate::model::Model;

/// How long a gateway that stops waits for the chain to say what its tasks cost.
const SETTLING: Duration = Duration::from_secs(15);

/// Who pays, and where.
#[derive(Clone, Debug)]
pub struct Terms {
    pub client: Client,
    pub signer: SigningKey,
    pub gas_price: Option<deepnode_client::GasPrice>,
    /// Tokens of an answer where the request does not say how many.
    pub default_output: u32,
    /// How long a transaction may wait for its block.
    pub inclusion: Duration,
}

/// The queue in front of a chain.
pub struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    terms: Terms,
    model: Arc<Model>,
    bills: Arc<Bills>,
    /// Held while a transaction is sent.
    broadcasts: tokio::sync::Mutex<()>,
    /// Bills of tasks that nobody waits for any more.
    due: mpsc::UnboundedSender<Bill>,
    /// Requests whose tasks may run now.
    turns: Arc<Semaphore>,
    places: Mutex<Places>,
    parallel: usize,
    /// Most places besides those of running tasks.
    queue: usize,
    /// Greatest number of stop strings of a request, and their bytes.
    stops: (usize, usize),
    aborted: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    reassigned: AtomicU64,
}

#[derive(Default)]
struct Places {
    taken: usize,
    closed: bool,
}

impl Tasks {
    /// Asks the chain whether the model takes tasks, and for its bounds. The tasks of so many requests run at once, and
    /// so many more requests may wait.
    pub async fn new(
        terms: Terms,
        model: Arc<Model>,
        ledger: Ledger,
        (parallel, queue): (usize, usize),
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let id = hex::encode(model.id());
        let found = task::model(&terms.client, &id).await?;
        anyhow::ensure!(
            found.status() == ModelStatus::Active,
            "model {id} is {} on the chain, must be active",
            found.status().as_str_name().trim_start_matches("MODEL_STATUS_").to_lowercase()
        );
        let params = task::params(&terms.client).await?;
        let turns = Arc::new(Semaphore::new(parallel));
        let bills = Arc::new(Bills::new(terms.client.clone(), ledger));
        let (due, to_follow) = mpsc::unbounded_channel();
        tokio::spawn(bills.clone().follow(to_follow));
        Ok(Self {
            shared: Arc::new(Shared {
                terms,
                model,
                bills,
                broadcasts: tokio::sync::Mutex::default(),
                due,
                turns,
                places: Mutex::default(),
                parallel,
                queue,
                stops: (params.max_stops as usize, params.max_stop_bytes as usize),
                aborted: watch::Sender::new(false),
                metrics,
                reassigned: AtomicU64::default(),
            }),
        })
    }

    pub fn admit(&self, options: &mut Options) -> Result<()> {
        if options.logprobs.is_some() {
            let why = "the answer is another machine's, and its receipt holds no logits to tell them from";
            return Err(ApiError::unsupported("logprobs", why));
        }
        let (most, bytes) = self.shared.stops;
        if options.stop.len() > most || options.stop.iter().any(|stop| stop.len() > bytes) {
            let bound = format!("up to {most} strings of at most {bytes} bytes on this chain");
            return Err(ApiError::invalid("stop", format!("{:?}", options.stop), bound));
        }
        options.default_output = Some(self.shared.terms.default_output);
        Ok(())
    }

    pub fn reserve(&self, caller: &Arc<Caller>) -> Result<Place> {
        let shared = &self.shared;
        let mut places = shared.places.lock();
        if places.closed {
            return Err(ApiError::stopping());
        }
        if places.taken >= shared.parallel + shared.queue {
            let waiting = places.taken - shared.parallel;
            return Err(ApiError::full(waiting, shared.metrics.retry_after()));
        }
        places.taken += 1;
        Ok(Place { shared: shared.clone(), caller: caller.clone() })
    }

    pub fn is_open(&self) -> bool {
        !self.shared.places.lock().closed
    }

    pub fn close(&self) {
        self.shared.places.lock().closed = true;
    }

    pub fn abort(&self) {
        self.shared.aborted.send_replace(true);
    }

    /// After [`abort`](Self::abort) or when all is answered: takes back what can be, and writes down what tasks cost.
    pub async fn settle(&self) {
        self.shared.bills.settle(SETTLING).await;
    }

    pub fn metrics(&self) -> String {
        let mut text = Exposition::default();
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64;
        let mut put = |name, kind, help, value| text.put(name, kind, help, &[("", value)]);
        put(
            "gateway_spent_udn_total",
            "counter",
            "udn paid for tasks and their fees.",
            of(&self.shared.bills.spent),
        );
        let help = "udn of receipts that did not stand, which returned.";
        put("gateway_refunded_udn_total", "counter", help, of(&self.shared.bills.refunded));
        let help = "Tasks that went to another worker because one failed.";
        put("gateway_reassigned_total", "counter", help, of(&self.shared.reassigned));
        let left = self.shared.bills.left_today() as f64;
        put("gateway_budget_left_udn", "gauge", "udn that may be spent until the day ends.", left);
        text.0
    }
}

impl Shared {
    fn sending(&self) -> Sending {
        Sending {
            gas_price: self.terms.gas_price.clone(),
            wait: Some(self.terms.inclusion),
            ..Sending::default()
        }
    }

    /// udn that a transaction with so much gas pays.
    fn fee(&self, gas: i64) -> u64 {
        let gas = u64::try_from(gas).unwrap_or(0);
        let fee = self.terms.gas_price.as_ref().and_then(|price| price.fee(gas).ok()).unwrap_or(0);
        u64::try_from(fee).unwrap_or(u64::MAX)
    }

    /// udn that a transaction has cost which failed, if it was in a block.
    fn fee_of_failed(&self, error: &ClientError) -> u64 {
        match error {
            ClientError::Transaction { height: 1.., gas_wanted, .. } => self.fee(*gas_wanted),
            _ => 0,
        }
    }
}

/// One of the places; free again when dropped.
pub struct Place {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
}

impl Place {
    pub async fn submit(self, job: Job) -> Result<Events> {
        let (started, starting) = oneshot::channel();
        let (sender, receiver) = mpsc::unbounded_channel();
        let aborted = self.shared.aborted.subscribe();
        tokio::spawn(driver::drive(self, job, started, sender));
        let proofs = starting.await.map_err(|_| ApiError::internal("the tasks' driver ended"))??;
        Ok(Events { receiver, proofs, aborted })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.places.lock().taken -= 1;
    }
}

/// What a driver tells of a choice.
enum Told {
    Token(u32),
    Finished(Finish, Box<Proof>),
    Failed(ApiError),
}

/// What happens to the tasks of a request. Bounded by the tokens that were paid for.
pub struct Events {
    receiver: mpsc::UnboundedReceiver<(u32, Told)>,
    /// One a choice; none where the chain did not take the task.
    proofs: Vec<Option<Proof>>,
    aborted: watch::Receiver<bool>,
}

impl Events {
    pub async fn next(&mut self) -> Option<Result<(u32, Event)>> {
        let told = tokio::select! {
            biased;
            told = self.receiver.recv() => told,
            _ = self.aborted.wait_for(|aborted| *aborted) => None,
        };
        let Some((choice, told)) = told else {
            // Its driver ends without a word when the drain is over. What was bought is paid.
            return self.aborted.borrow().then(|| Err(ApiError::stopping().final_word()));
        };
        let event = match told {
            Told::Token(token) => Event::Token { token, logprobs: None },
            Told::Failed(error) => Event::Failed(error),
            Told::Finished(finish, proof) => {
                self.proofs[choice as usize] = Some(*proof);
                Event::Finished(finish)
            }
        };
        Some(Ok((choice, event)))
    }

    pub fn proofs(&self) -> &[Option<Proof>] {
        &self.proofs
    }
}
