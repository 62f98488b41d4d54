//! Events of audits: auditors, workers and explorers follow these.

use deepnode_core::{Address, Event};

use super::math::SlashSplit;
use super::state::{Audit, Outcome, Verdict};

fn event(kind: &'static str, audit: &Audit) -> Event {
    let event = Event::new(kind).with("audit_id", audit.id);
    match audit.task() {
        Some(task) => event.with("task_id", task),
        None => event.with("model_id", hex::encode(audit.model)),
    }
}

/// A draw: `audit_opened` the first, `audit_drawn` each further one. `auditors` are hot keys, comma separated;
/// they commit until block `until`.
pub(super) fn drawn(audit: &Audit) -> Event {
    let kind = if audit.draw() == 0 { "audit_opened" } else { "audit_drawn" };
    let keys: Vec<String> = audit.current().map(|m| m.key.to_string()).collect();
    let beacon = audit.draws.last().map(|d| hex::encode(d.beacon)).unwrap_or_default();
    event(kind, audit)
        .with("subject", if audit.task().is_some() { "receipt" } else { "vector" })
        .with("worker", audit.worker.map(|w| w.to_string()).unwrap_or_default())
        .with("class", &audit.class)
        .with("digest", hex::encode(audit.digest))
        .with("draw", audit.draw())
        .with("beacon", beacon)
        .with("auditors", keys.join(","))
        .with("until", audit.phase_end)
}

/// `phase_end` is the last block of the phase in force, for the next step of the member.
pub(super) fn committed(audit: &Audit, key: &Address) -> Event {
    event("audit_committed", audit)
        .with("auditor", key)
        .with("phase", format!("{:?}", audit.phase).to_lowercase())
        .with("until", audit.phase_end)
}

/// The phase of reveals began.
pub(super) fn revealing(audit: &Audit) -> Event {
    event("audit_revealing", audit).with("draw", audit.draw()).with("until", audit.phase_end)
}

/// `seat` is the index of the member.
pub(super) fn revealed(audit: &Audit, seat: usize, verdict: Verdict) -> Event {
    let member = audit.members.get(seat);
    event("audit_revealed", audit)
        .with("auditor", member.map(|m| m.key.to_string()).unwrap_or_default())
        .with("verdict", format!("{verdict:?}").to_lowercase())
        .with("digest", member.map(|m| hex::encode(m.digest)).unwrap_or_default())
}

/// The worker must show input and output on chain until block `until`.
pub(super) fn missing(audit: &Audit, key: &Address) -> Event {
    event("audit_missing", audit)
        .with("auditor", key)
        .with("worker", audit.worker.map(|w| w.to_string()).unwrap_or_default())
        .with("until", audit.phase_end)
}

pub(super) fn shown(audit: &Audit, input: usize, output: usize) -> Event {
    event("audit_shown", audit)
        .with("input_bytes", input)
        .with("output_bytes", output)
        .with("until", audit.phase_end)
}

pub(super) fn closed(audit: &Audit, outcome: Outcome) -> Event {
    event("audit_closed", audit)
        .with("outcome", format!("{outcome:?}").to_lowercase())
        .with("worker", audit.worker.map(|w| w.to_string()).unwrap_or_default())
}

/// An auditor's fee, and its share of slashed bond, in udn.
pub(super) fn paid(audit: &Audit, operator: &Address, fee: u128, share: u128) -> Event {
    event("auditor_paid", audit).with("operator", operator).with("fee", fee).with("slashed_share", share)
}

/// A verdict did not stand: what it cost of the deposit, in udn.
pub(super) fn overruled(audit: &Audit, operator: &Address, penalty: u128) -> Event {
    event("auditor_overruled", audit).with("operator", operator).with("penalty", penalty)
}

pub(super) fn missed(audit: &Audit, operator: &Address) -> Event {
    event("auditor_missed", audit).with("operator", operator).with("draw", audit.draw())
}

/// What a conviction took of a bond and where it went, in udn; `refunded` is the escrow that went back to the user.
pub(super) fn convicted(
    audit: &Audit,
    worker: &Address,
    amount: u128,
    refunded: u128,
    split: &SlashSplit,
) -> Event {
    event("worker_convicted", audit)
        .with("worker", worker)
        .with("slashed", amount)
        .with("burned", split.burn)
        .with("users", split.users)
        .with("each_auditor", split.each_auditor)
        .with("refunded", refunded)
}

/// A receipt that became final: paid, or refunded because its worker was convicted in between.
pub(super) fn finality(task: u64, worker: &Address, paid: bool) -> Event {
    Event::new("receipt_final").with("task_id", task).with("worker", worker).with("paid", paid)
}

pub(super) fn registered(operator: &Address, key: &Address, classes: &[String], deposit: u128) -> Event {
    Event::new("auditor_registered")
        .with("operator", operator)
        .with("auditor", key)
        .with("classes", classes.join(","))
        .with("deposit", deposit)
}

pub(super) fn retired(operator: &Address, returned: u128) -> Event {
    Event::new("auditor_retired").with("operator", operator).with("returned", returned)
}
