//! What was spent, by whom, on which day: on disk before a price is locked, so that a restart spends nothing twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::gateway::keys::Caller;
use crate::journal::{JournalError, Log};

const DAY: u64 = 86_400;

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "lowercase", deny_unknown_fields)]
enum Entry {
    /// A price is about to be locked for `caller`.
    Locked { id: u64, day: u64, caller: String, udn: u64 },
    /// What it came to in the end.
    Paid { id: u64, udn: u64 },
}

/// The limits, and what was spent within them. A day is one of UTC.
pub struct Ledger {
    inner: Mutex<Inner>,
    /// udn a day, of all callers.
    day_limit: u64,
    /// udn for as long as this process runs.
    limit: Option<u64>,
}

struct Inner {
    log: Log<Entry>,
    next: u64,
    today: u64,
    /// Of today: what each lock stands for, until it is paid the whole of it.
    costs: BTreeMap<u64, Cost>,
    /// Since the process began.
    spent: u64,
}

struct Cost {
    caller: String,
    udn: u64,
}

/// Why no price is locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverBudget {
    /// Of the gateway, today.
    Day { left: u64, retry_after: u32 },
    /// Of the gateway, until it is started again.
    Process { left: u64 },
    /// Of the API key, today.
    Key { left: u64, retry_after: u32 },
    /// It cannot be written down.
    Journal(String),
}

impl Ledger {
    /// Opens or makes the file. Entries of other days go; a lock that nobody paid counts whole.
    pub fn open(path: &Path, day_limit: u64, limit: Option<u64>) -> Result<Self, JournalError> {
        let (mut log, entries) = Log::open(path)?;
        let mut inner_costs = BTreeMap::new();
        let (today, mut next) = (day_of(now()), 0);
        for entry in &entries {
            match entry {
                Entry::Locked { id, day, caller, udn } => {
                    next = next.max(id + 1);
                    if *day == today {
                        inner_costs.insert(*id, Cost { caller: caller.clone(), udn: *udn });
                    }
                }
                Entry::Paid { id, udn } => {
                    if let Some(cost) = inner_costs.get_mut(id) {
                        cost.udn = *udn;
                    }
                }
            }
        }
        let kept: Vec<Entry> = inner_costs
            .iter()
            .map(|(id, cost)| Entry::Locked {
                id: *id,
                day: today,
                caller: cost.caller.clone(),
                udn: cost.udn,
            })
            .collect();
        log.rewrite(kept.iter())?;
        let inner = Inner { log, next, today, costs: inner_costs, spent: 0 };
        Ok(Self { inner: inner.into(), day_limit, limit })
    }

    /// udn that may still be spent today.
    pub fn left_today(&self) -> u64 {
        let mut inner = self.inner.lock();
        inner.turn(day_of(now()));
        self.day_limit.saturating_sub(inner.sum(|_| true))
    }

    /// Sets `udn` aside so many times, if every limit has that much left.
    pub fn lock(&self, caller: &Caller, udn: u64, count: u64) -> Result<Vec<u64>, OverBudget> {
        let total = udn.saturating_mul(count);
        let now = now();
        let retry_after = (DAY - now % DAY) as u32;
        let mut inner = self.inner.lock();
        inner.turn(day_of(now));
        let left = self.day_limit.saturating_sub(inner.sum(|_| true));
        if total > left {
            return Err(OverBudget::Day { left, retry_after });
        }
        if let Some(left) = self.limit.map(|limit| limit.saturating_sub(inner.spent)) {
            if total > left {
                return Err(OverBudget::Process { left });
            }
        }
        if let Some(limit) = caller.udn_per_day {
            let left = limit.saturating_sub(inner.sum(|cost| cost.caller == caller.name));
            if total > left {
                return Err(OverBudget::Key { left, retry_after });
            }
        }
        let (day, ids) = (inner.today, Vec::from_iter(inner.next..inner.next + count));
        let entry = |id: &u64| Entry::Locked { id: *id, day, caller: caller.name.clone(), udn };
        let entries: Vec<Entry> = ids.iter().map(entry).collect();
        inner.log.append_all(&entries).map_err(|error| OverBudget::Journal(error.to_string()))?;
        inner.next += count;
        inner.spent = inner.spent.saturating_add(total);
        let cost = |id: &u64| (*id, Cost { caller: caller.name.clone(), udn });
        inner.costs.extend(ids.iter().map(cost));
        Ok(ids)
    }

    /// Says what a lock came to, which the budget has `held` until now: what was locked, or what it came to before a
    /// refund.
    pub fn pay(&self, id: u64, held: u64, udn: u64) {
        let mut inner = self.inner.lock();
        inner.spent = inner.spent.saturating_sub(held).saturating_add(udn);
        if let Some(cost) = inner.costs.get_mut(&id) {
            cost.udn = udn;
            // Not written, it counts whole after a restart: too much, never too little.
            if let Err(error) = inner.log.append(&Entry::Paid { id, udn }) {
                tracing::error!(%error, "what a task cost is not written down");
            }
        }
    }
}

impl Inner {
    /// A new day begins with nothing spent. What is still locked then was yesterday's.
    fn turn(&mut self, today: u64) {
        if today != self.today {
            self.today = today;
            self.costs.clear();
            if let Err(error) = self.log.rewrite(std::iter::empty()) {
                tracing::error!(%error, "the ledger of yesterday stays");
            }
        }
    }

    fn sum(&self, of: impl Fn(&Cost) -> bool) -> u64 {
        self.costs.values().filter(|cost| of(cost)).fold(0, |sum, cost| sum.saturating_add(cost.udn))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn day_of(seconds: u64) -> u64 {
    seconds / DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str, udn_per_day: Option<u64>) -> Caller {
        Caller { name: name.into(), udn_per_day, ..Caller::default() }
    }

    #[test]
    fn every_limit_holds_and_a_restart_forgets_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("gateway.journal");
        let (a, b) = (caller("a", Some(60)), caller("b", None));
        let ledger = Ledger::open(&path, 100, Some(90)).unwrap();
        let first = ledger.lock(&a, 25, 2).unwrap();
        assert!(matches!(ledger.lock(&a, 11, 1), Err(OverBudget::Key { left: 10, .. })));
        assert!(matches!(ledger.lock(&b, 51, 1), Err(OverBudget::Day { left: 50, .. })));
        assert_eq!(ledger.lock(&b, 41, 1), Err(OverBudget::Process { left: 40 }));
        ledger.pay(first[0], 25, 15);
        ledger.pay(first[1], 25, 20);
        // Its receipt did not stand: the price returned, the transaction's fee did not.
        ledger.pay(first[1], 20, 5);
        assert_eq!(ledger.left_today(), 80);
        let unpaid = ledger.lock(&a, 30, 1).unwrap();
        assert!(!first.contains(&unpaid[0]));
        assert!(matches!(Ledger::open(&path, 1, None), Err(JournalError::Locked { .. })));
        drop(ledger);

        // 20 were paid, 30 are locked for good; the limit of the process begins anew.
        let ledger = Ledger::open(&path, 100, Some(90)).unwrap();
        assert_eq!(ledger.left_today(), 50);
        assert!(matches!(ledger.lock(&a, 11, 1), Err(OverBudget::Key { left: 10, .. })));
        let third = ledger.lock(&b, 50, 1).unwrap();
        assert!(third[0] > unpaid[0]);
        assert!(matches!(ledger.lock(&b, 1, 1), Err(OverBudget::Day { left: 0, .. })));
    }

    #[test]
    fn a_day_begins_with_nothing_spent() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&home.path().join("gateway.journal"), 100, None).unwrap();
        let late = ledger.lock(&caller("a", None), 70, 1).unwrap();
        let mut inner = ledger.inner.lock();
        let tomorrow = inner.today + 1;
        inner.turn(tomorrow);
        assert_eq!(inner.sum(|_| true), 0);
        drop(inner);
        // Paid after midnight: of yesterday's.
        ledger.pay(late[0], 70, 60);
        assert_eq!(ledger.inner.lock().spent, 60);
    }
}
