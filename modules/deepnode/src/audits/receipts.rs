//! From receipt to finality: which receipts are audited, and which become final without.

use deepnode_core::draw::Stream;
use deepnode_core::{Address, Ctx, Dec, Error, Result};

use super::auditors::Panel;
use super::course::{self, Case};
use super::outcome::{fee, forfeited};
use super::state::{FinalReceipt, Subject, FINAL, FINAL_AT, FROZEN};
use super::{events, params};
use crate::tasks::{self, Task};
use crate::{beacon, models};

/// Blocks after which a receipt is looked at again whose worker is in a dispute.
const FROZEN_BLOCKS: u64 = 5;

/// The beacon of two blocks after a receipt decides whether it is audited. `now` is this block's beacon.
pub(super) fn decide(cx: &mut Ctx<'_>, panel: &Panel, id: u64, now: &[u8; 32]) -> Result<()> {
    let (task, worker) = known(cx, id)?;
    let receipt = task.receipt.as_ref().ok_or_else(|| Error::fault(format!("task {id} has no receipt")))?;
    if forfeited(cx, &worker, task.receipt_height)? {
        return tasks::void(cx, id);
    }
    let class = models::class(cx, &task.class)?
        .ok_or_else(|| Error::fault(format!("task {id}: no class {}", task.class)))?;
    let compute = tasks::price(&task)?.compute;
    let chance = tasks::audit_chance(cx, &worker, &class, compute)?;
    let height = task.receipt_height.saturating_add(tasks::BEACON_DELAY);
    // So late that the value is forgotten: this block's is as unforeseen.
    let (height, value) = match beacon::value(cx, height)? {
        Some(value) => (height, value),
        None => (cx.height(), *now),
    };
    let mut stream = Stream::new(&value, "audit.chance", &receipt.digest);
    let drawn = stream.chance(chance.atomics(), Dec::SCALE);
    tasks::set_audit(cx, id, chance, drawn)?;
    if !drawn {
        let last = task.receipt_height.saturating_add(params::rules(cx)?.window).max(cx.height());
        return FINAL_AT.insert(cx, &(last, id));
    }
    let case = Case {
        subject: Subject::Receipt(id),
        model: task.model,
        digest: receipt.digest,
        worker: Some(worker),
        class: task.class.clone(),
        cu: task.cu,
        chance,
        fee: fee(cx, compute)?,
    };
    let audit = course::open(cx, case)?;
    course::draw(cx, panel, audit, height, value)
}

/// A receipt's window is over, or its audit ended well: it is paid and credited, unless its worker is in a dispute
/// (later) or was convicted in between (its user is refunded).
pub(super) fn finalize(cx: &mut Ctx<'_>, id: u64) -> Result<()> {
    let (task, worker) = known(cx, id)?;
    if FROZEN.has(cx, &worker)? {
        let later = cx.height().saturating_add(FROZEN_BLOCKS);
        return FINAL_AT.insert(cx, &(later, id));
    }
    if forfeited(cx, &worker, task.receipt_height)? {
        cx.emit(events::finality(id, &worker, false));
        return tasks::void(cx, id);
    }
    tasks::settle(cx, id)?;
    cx.emit(events::finality(id, &worker, true));
    let scored = models::get(cx, &task.model)?.is_some_and(|model| model.scored);
    FINAL.push(
        cx,
        &FinalReceipt {
            task: id,
            worker,
            class: task.class,
            cu: task.cu,
            price: task.unit_price,
            scored,
            workers_in_draw: task.workers_in_draw,
            validators_in_draw: task.validators_in_draw,
            user_chosen: false,
        },
    )
}

fn known(cx: &Ctx<'_>, id: u64) -> Result<(Task, Address)> {
    let task = tasks::get(cx, id)?.ok_or_else(|| Error::fault(format!("audits: no task {id}")))?;
    let worker = task.worker.ok_or_else(|| Error::fault(format!("task {id} has no worker")))?;
    Ok((task, worker))
}
