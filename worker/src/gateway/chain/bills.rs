//! What tasks came to, asked of the chain until each is final: by one task of this process for all of them, so that a
//! busy day asks the node no more often than a quiet one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use deepnode_client::{task, Client};
use deepnode_proto::deepnode::tasks::v1::{Task, TaskStatus};
use futures::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, Instant};

use super::{Ledger, OverBudget};
use crate::gateway::keys::Caller;

/// How often a task is looked at whose price is not known yet.
const LOOK: Duration = Duration::from_secs(2);
/// The longest pause between looks at a task whose receipt is not final yet.
const LONG_LOOK: Duration = Duration::from_secs(60);
/// Tasks that are asked for at once.
const AT_ONCE: usize = 16;

/// What is set aside for one task.
pub struct Lock {
    /// The entry of the ledger.
    id: u64,
    /// udn that the budget holds for it: what was set aside, then what it came to.
    held: u64,
    open: Option<Open>,
}

/// Counts a lock whose cost is not known yet.
struct Open(Arc<Bills>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// A task that was paid, or will be.
pub struct Bill {
    task: u64,
    lock: Lock,
    /// udn of transactions.
    fees: u64,
    /// The receipt's price, once it is known.
    price: Option<u64>,
    pause: Duration,
}

impl Bill {
    pub fn new(task: u64, lock: Lock, fees: u64) -> Self {
        Self { task, lock, fees, price: None, pause: LOOK }
    }
}

/// The ledger, and what was spent in the end.
pub struct Bills {
    client: Client,
    ledger: Ledger,
    /// Locks whose cost is not known yet.
    open: watch::Sender<usize>,
    pub spent: AtomicU64,
    pub refunded: AtomicU64,
}

impl Bills {
    pub fn new(client: Client, ledger: Ledger) -> Self {
        let (spent, refunded) = Default::default();
        Self { client, ledger, open: watch::Sender::new(0), spent, refunded }
    }

    /// udn that may still be spent today.
    pub fn left_today(&self) -> u64 {
        self.ledger.left_today()
    }

    /// Sets `udn` aside so many times, if every limit has that much left.
    pub fn lock(self: &Arc<Self>, caller: &Caller, udn: u64, count: u64) -> Result<Vec<Lock>, OverBudget> {
        let lock = |id| {
            self.open.send_modify(|open| *open += 1);
            Lock { id, held: udn, open: Some(Open(self.clone())) }
        };
        Ok(self.ledger.lock(caller, udn, count)?.into_iter().map(lock).collect())
    }

    /// A lock came to no task: to this many udn, which are the fee of a transaction that failed in its block, or none.
    pub fn no_task(&self, lock: Lock, fee: u64) {
        self.ledger.pay(lock.id, lock.held, fee);
        self.spent.fetch_add(fee, Ordering::Relaxed);
    }

    /// Waits until the cost of every task is known, or the time is over.
    pub async fn settle(&self, limit: Duration) {
        let mut open = self.open.subscribe();
        if tokio::time::timeout(limit, open.wait_for(|open| *open == 0)).await.is_err() {
            let tasks = *self.open.borrow();
            tracing::warn!(
                tasks,
                "what tasks cost is not known yet: what was set aside for them counts whole"
            );
        }
    }

    /// Follows the bills until each is final and no more come.
    pub async fn follow(self: Arc<Self>, mut bills: mpsc::UnboundedReceiver<Bill>) {
        let mut due: BTreeMap<(Instant, u64), Bill> = BTreeMap::new();
        let mut more = true;
        while more || !due.is_empty() {
            let next = due.first_key_value().map(|((at, _), _)| *at);
            tokio::select! {
                bill = bills.recv(), if more => match bill {
                    Some(bill) => _ = due.insert((Instant::now(), bill.task), bill),
                    None => more = false,
                },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    let now = Instant::now();
                    let ready: Vec<_> = due.range(..=(now, u64::MAX)).take(AT_ONCE).map(|(key, _)| *key).collect();
                    let ready = ready.iter().filter_map(|key| due.remove(key)).map(|bill| self.look(bill));
                    let open = join_all(ready).await.into_iter().flatten();
                    due.extend(open.map(|bill| ((Instant::now() + bill.pause, bill.task), bill)));
                }
            }
        }
    }

    /// Writes down what the task costs by now; answers the bill if that may still change. When a receipt is convicted
    /// after it was paid, what returned is there to be spent again.
    async fn look(&self, mut bill: Bill) -> Option<Bill> {
        let task = task::task(&self.client, bill.task).await.ok();
        let status = task.as_ref().map(Task::status);
        let price: Option<u64> = match status {
            Some(TaskStatus::Submitted | TaskStatus::Settled) => task.and_then(|t| t.price.parse().ok()),
            None | Some(TaskStatus::Open | TaskStatus::Assigned | TaskStatus::Accepted) => None,
            Some(_) => Some(0),
        };
        if let Some(price) = price.filter(|price| bill.price != Some(*price)) {
            let cost = bill.fees.saturating_add(price);
            self.ledger.pay(bill.lock.id, bill.lock.held, cost);
            bill.lock.open = None;
            match bill.price.replace(price) {
                None => _ = self.spent.fetch_add(cost, Ordering::Relaxed),
                Some(before) => {
                    tracing::warn!(
                        task = bill.task,
                        udn = before,
                        "the receipt did not stand; its price returned"
                    );
                    self.refunded.fetch_add(before.saturating_sub(price), Ordering::Relaxed);
                }
            }
            bill.lock.held = cost;
        }
        // A receipt may be convicted until it is settled.
        let last = price.is_some() && status != Some(TaskStatus::Submitted);
        if bill.price.is_some() {
            bill.pause = bill.pause.saturating_mul(2).min(LONG_LOOK);
        }
        (!last).then_some(bill)
    }
}
