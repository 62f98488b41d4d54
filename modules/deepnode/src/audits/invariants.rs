//! What must hold between blocks.

use std::collections::BTreeMap;

use deepnode_core::{Address, Error, KvRead, Result, Walk};
use deepnode_cosmos::bank;

use super::auditors::deposits;
use super::state::{self, Phase, Subject};
use crate::tasks::{self, Status};

/// Deposits lie in their account; every open audit is in the queue of phases once, and nothing else is; seats,
/// frozen workers and final receipts agree with audits and tasks.
pub(super) fn check(kv: &dyn KvRead) -> Result<()> {
    let mut deposited = 0u128;
    let mut keys = 0usize;
    for entry in state::AUDITORS.iter(kv, Walk::FORWARD) {
        let (operator, auditor) = entry?;
        deposited = deposited.saturating_add(auditor.deposit);
        keys = keys.saturating_add(1);
        hold(state::BY_KEY.get(kv, &auditor.key)? == Some(operator), || {
            format!("key {} of {operator} is not indexed", auditor.key)
        })?;
    }
    hold(state::BY_KEY.iter(kv, Walk::FORWARD).count() == keys, || {
        "a key without auditor is indexed".into()
    })?;
    let held = bank::balance_udn(kv, &deposits())?;
    // Anybody can send to a module account: more than is owed is no fault.
    hold(held >= deposited, || format!("{held}udn are held for {deposited}udn of deposits"))?;

    let mut frozen: BTreeMap<Address, u32> = BTreeMap::new();
    let mut seats: BTreeMap<(Address, u64), u32> = BTreeMap::new();
    let mut open = 0usize;
    // What a receipt waits for: its audit, or the end of its window.
    let mut waiting: BTreeMap<u64, u32> = BTreeMap::new();
    let mut wait = |task: u64| {
        let reasons = waiting.entry(task).or_default();
        *reasons = reasons.saturating_add(1);
    };
    for entry in state::AUDITS.iter(kv, Walk::FORWARD) {
        let (id, audit) = entry?;
        hold((audit.phase == Phase::Closed) == audit.outcome.is_some(), || {
            format!("audit {id} is {:?} with outcome {:?}", audit.phase, audit.outcome)
        })?;
        if audit.phase == Phase::Closed {
            continue;
        }
        open = open.saturating_add(1);
        hold(state::PHASES.has(kv, &(audit.phase_end, id))?, || {
            format!("open audit {id} waits for nothing")
        })?;
        seats.extend(audit.members.iter().map(|m| ((m.operator, id), m.draw)));
        if let (Some(worker), true) = (audit.worker, audit.frozen) {
            let disputes = frozen.entry(worker).or_default();
            *disputes = disputes.saturating_add(1);
        }
        match audit.subject {
            Subject::Receipt(task) => {
                wait(task);
                submitted(kv, task)?
            }
            Subject::Vector => hold(state::BY_MODEL.get(kv, &audit.model)? == Some(id), || {
                format!("audit {id} of a test vector is not indexed")
            })?,
        }
    }
    hold(state::PHASES.iter(kv, Walk::FORWARD).count() == open, || "a closed audit waits".into())?;
    let kept: BTreeMap<_, _> = state::SEATS.iter(kv, Walk::FORWARD).collect::<Result<_>>()?;
    hold(kept == seats, || "seats are not those of the open audits".into())?;
    let kept: BTreeMap<_, _> = state::FROZEN.iter(kv, Walk::FORWARD).collect::<Result<_>>()?;
    hold(kept == frozen, || "frozen workers are not those of the open disputes".into())?;
    for entry in state::FINAL_AT.iter(kv, Walk::FORWARD) {
        let (_, task) = entry?;
        wait(task);
        submitted(kv, task)?;
    }
    for entry in tasks::all(kv) {
        let (id, task) = entry?;
        let reasons = waiting.get(&id).copied().unwrap_or(0);
        // Nobody would ever pay or refund one that waits for nothing.
        let expected = u32::from(task.status == Status::Submitted && task.decided);
        hold(reasons == expected, || format!("task {id}, {:?}, waits for {reasons} things", task.status))?;
    }
    Ok(())
}

/// Whatever waits for an audit or for finality has its escrow locked.
fn submitted(kv: &dyn KvRead, id: u64) -> Result<()> {
    let status = tasks::get(kv, id)?.map(|task| task.status);
    hold(status == Some(Status::Submitted), || format!("task {id} waits and is {status:?}"))
}

fn hold(condition: bool, text: impl FnOnce() -> String) -> Result<()> {
    if condition {
        return Ok(());
    }
    Err(Error::fault(format!("audits: {}", text())))
}
