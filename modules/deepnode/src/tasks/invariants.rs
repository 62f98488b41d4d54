//! What holds after every message and block. Walks everything: genesis, tests and tools only.

use std::collections::BTreeMap;

use deepnode_core::{Address, Error, KvRead, Result, Walk};
use deepnode_cosmos::bank;

use super::state::{self, Status};
use super::{pay, receipt};
use crate::workers;

pub(super) fn check(kv: &(impl KvRead + ?Sized)) -> Result<()> {
    let (mut escrow, mut held, mut due, mut receipts) = (0u128, 0usize, 0usize, 0usize);
    // Open receipts, and pay that waits for them, by worker.
    let mut owed: BTreeMap<Address, (u64, u128)> = BTreeMap::new();
    for entry in state::TASKS.iter(kv, Walk::FORWARD) {
        let (id, task) = entry?;
        if let (Some(worker), Status::Accepted | Status::Submitted) = (task.worker, task.status) {
            let (open, pending) = owed.entry(worker).or_default();
            *open = open.saturating_add(1);
            if task.status == Status::Submitted {
                *pending = pending.saturating_add(pay::price(&task)?.compute);
            }
        }
        let open = task.status.is_open();
        holds(task.id == id, id, "has another id")?;
        holds(open == (task.escrow > 0), id, "escrow is locked if and only if it is open")?;
        escrow = escrow.checked_add(task.escrow).ok_or_else(|| Error::fault("tasks: escrow overflows"))?;
        holds(state::BY_CREATOR.has(kv, &(task.creator, id))?, id, "is not in its creator's index")?;
        if let Some(worker) = task.worker.filter(|_| open) {
            holds(state::BY_WORKER.has(kv, &(worker, id))?, id, "is not in its worker's index")?;
            held = held.saturating_add(1);
        }
        holds(
            task.worker.is_none() == (task.status == Status::Open) || !open,
            id,
            "has a worker or is open",
        )?;
        let waits = open && task.status != Status::Submitted;
        holds(waits == (task.due > 0), id, "has a next step if and only if the chain owes it one")?;
        if waits {
            holds(state::DUE.has(kv, &(task.due, id))?, id, "is not in the queue of steps")?;
            due = due.saturating_add(1);
        }
        if task.status == Status::Submitted && !task.decided {
            let at = task.receipt_height.saturating_add(state::BEACON_DELAY);
            holds(state::RECEIPTS_DUE.has(kv, &(at, id))?, id, "waits for no beacon")?;
            receipts = receipts.saturating_add(1);
        }
        if let Some(r) = &task.receipt {
            let digest = blake3::hash(&prost::Message::encode_to_vec(&receipt::to_proto(&task, r)));
            holds(digest == r.digest, id, "has a receipt of another digest")?;
        }
        if let Some(s) = &task.settlement {
            let parts = [s.worker, s.owner, s.parent, s.burned, s.community, s.levy];
            let sum = parts.iter().try_fold(0u128, |sum, part| sum.checked_add(*part));
            holds(sum == Some(s.price), id, "has parts that do not sum to the price")?;
        }
    }
    let all = u64::MAX;
    holds(state::BY_WORKER.iter(kv, Walk::FORWARD).count() == held, all, "workers' index names others")?;
    holds(state::DUE.iter(kv, Walk::FORWARD).count() == due, all, "queue of steps names others")?;
    holds(
        state::RECEIPTS_DUE.iter(kv, Walk::FORWARD).count() == receipts,
        all,
        "queue of receipts names others",
    )?;
    let balance = bank::balance_udn(kv, &pay::escrow_account())?;
    if balance != escrow {
        return Err(Error::fault(format!(
            "tasks: the account holds {balance}udn, open escrow is {escrow}udn"
        )));
    }
    for entry in workers::all(kv) {
        let (worker, kept) = entry?;
        let (open, pending) = owed.remove(&worker).unwrap_or_default();
        if (kept.open_tasks, kept.pending_pay) != (open, pending) {
            return Err(Error::fault(format!(
                "tasks: {worker} has {} open tasks and {}udn pending, its tasks say {open} and {pending}udn",
                kept.open_tasks, kept.pending_pay
            )));
        }
    }
    if let Some(worker) = owed.keys().next() {
        return Err(Error::fault(format!("tasks: {worker} has tasks and is no worker")));
    }
    Ok(())
}

fn holds(condition: bool, id: u64, broken: &str) -> Result<()> {
    match (condition, id) {
        (true, _) => Ok(()),
        (false, u64::MAX) => Err(Error::fault(format!("tasks: {broken}"))),
        (false, id) => Err(Error::fault(format!("task {id}: {broken}"))),
    }
}
