//! Money: what a receipt costs, and where it and the escrow go.

use deepnode_core::num::amount;
use deepnode_core::{Address, Ctx, Dec, Error, KvRead, Result};
use deepnode_cosmos::bank;

use super::math::{compute_fee, levy_rate, split_fee, split_royalty};
use super::state::{self, Settlement, Status, Task};
use super::{events, params};
use crate::audits::math::expected_seats;
use crate::{models, workers};

/// Eligible auditors that the levy reckons with: as many as a first draw has seats.
const AUDITORS: usize = 2;

/// The account that holds the escrow of all open tasks.
pub fn escrow_account() -> Address {
    Address::module(state::STORE)
}

/// What a receipt is worth, udn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Of the compute.
    pub compute: u128,
    /// To the model's owner and its parent's.
    pub royalty: u128,
    /// Both; at most the escrow.
    pub total: u128,
}

/// The price of a task's receipt, at the prices of its submission.
pub fn price(task: &Task) -> Result<Price> {
    let compute = compute_fee(task.cu.into(), task.unit_price)?;
    let royalty = task.royalty.of(compute)?;
    Ok(Price { compute, royalty, total: amount::add(compute, royalty)? })
}

/// CU of the greatest input and output, and the compute fee of it in udn.
pub(super) fn greatest(kv: &(impl KvRead + ?Sized), task: &Task) -> Result<(u64, u128)> {
    let model = models::existing(kv, &task.model)?;
    let cu = models::cu(&model.architecture, task.input_tokens, task.max_output)?;
    Ok((cu, compute_fee(cu.into(), task.unit_price)?))
}

/// Pays for a receipt that stands: every part of the price, and what is left of the escrow to its user.
/// A fault unless the task is submitted.
pub fn settle(cx: &mut Ctx<'_>, id: u64) -> Result<()> {
    let mut task = submitted(cx, id)?;
    let worker = task.assignee()?;
    let price = price(&task)?;
    let params = params(cx)?;
    let chance = task.audit_chance;
    let seats = expected_seats(chance, AUDITORS, &super::audit_params(cx)?)?;
    let levy = levy_rate(params.audit_fee(), seats, chance, &params.fees())?;
    let split = split_fee(price.compute, levy, &params.fees())?;
    let royalty = split_royalties(cx, &task, price.royalty)?;
    let settlement = Settlement {
        price: price.total,
        worker: split.worker,
        owner: royalty.owner.1,
        parent: royalty.parent.map_or(0, |(_, part)| part),
        burned: amount::add(split.burn, royalty.burn)?,
        community: split.community,
        levy: split.levy,
        returned: amount::sub(task.escrow, price.total)?,
    };

    let escrow = escrow_account();
    bank::send_udn(cx, &escrow, &worker, settlement.worker)?;
    bank::send_udn(cx, &escrow, &royalty.owner.0, settlement.owner)?;
    if let Some((parent, part)) = royalty.parent {
        bank::send_udn(cx, &escrow, &parent, part)?;
    }
    bank::send_udn(cx, &escrow, &Address::module("distribution"), settlement.community)?;
    bank::send_udn(cx, &escrow, &Address::module("audits"), settlement.levy)?;
    bank::send_udn(cx, &escrow, &task.creator, settlement.returned)?;
    bank::burn_udn(cx, &escrow, settlement.burned)?;

    let blocks = task.receipt_height.saturating_sub(task.accepted_height).max(1);
    models::record_usage(cx, &task.model, task.cu)?;
    workers::record_work(cx, &worker, task.cu, blocks)?;
    release_worker(cx, &task, &worker)?;
    cx.emit(events::settled(&task, &worker, &settlement));
    task.settlement = Some(settlement);
    close(cx, &mut task, Status::Settled)?;
    task.save(cx)
}

/// The receipt was found wrong: its user gets the whole escrow back. A fault unless the task is submitted.
pub fn convict(cx: &mut Ctx<'_>, id: u64) -> Result<()> {
    undo(cx, id, Status::Convicted, "convicted")
}

/// Nobody could decide about the receipt: its user gets the whole escrow back, nobody is punished. A fault unless the
/// task is submitted.
pub fn void(cx: &mut Ctx<'_>, id: u64) -> Result<()> {
    undo(cx, id, Status::Void, "undecided")
}

fn undo(cx: &mut Ctx<'_>, id: u64, status: Status, reason: &'static str) -> Result<()> {
    let task = submitted(cx, id)?;
    let worker = task.assignee()?;
    release_worker(cx, &task, &worker)?;
    refund(cx, task, status, reason)
}

/// Closes an open task and returns its escrow.
pub(super) fn refund(cx: &mut Ctx<'_>, mut task: Task, status: Status, reason: &'static str) -> Result<()> {
    let kind = match status {
        Status::Cancelled => "task_cancelled",
        Status::Convicted => "task_convicted",
        Status::Void => "task_void",
        _ => "task_refunded",
    };
    bank::send_udn(cx, &escrow_account(), &task.creator, task.escrow)?;
    cx.emit(events::refunded(kind, &task, task.escrow, reason));
    close(cx, &mut task, status)?;
    task.save(cx)
}

fn submitted(cx: &Ctx<'_>, id: u64) -> Result<Task> {
    let task = state::known(cx, id)?;
    match task.status {
        Status::Submitted => Ok(task),
        other => Err(Error::fault(format!("task {id} is {other:?}, a verdict needs a submitted one"))),
    }
}

/// The worker no longer waits for the pay of a receipt.
fn release_worker(cx: &mut Ctx<'_>, task: &Task, worker: &Address) -> Result<()> {
    workers::sub_pending(cx, worker, price(task)?.compute)?;
    workers::task_closed(cx, worker)
}

/// Takes the task out of every queue; its escrow is gone.
fn close(cx: &mut Ctx<'_>, task: &mut Task, status: Status) -> Result<()> {
    task.schedule(cx, 0)?;
    if task.status == Status::Submitted && !task.decided {
        let due = task.receipt_height.saturating_add(state::BEACON_DELAY);
        state::RECEIPTS_DUE.remove(cx, &(due, task.id))?;
    }
    if let Some(worker) = task.worker {
        state::BY_WORKER.remove(cx, &(worker, task.id))?;
    }
    task.escrow = 0;
    task.status = status;
    Ok(())
}

struct Royalties {
    owner: (Address, u128),
    parent: Option<(Address, u128)>,
    burn: u128,
}

/// The royalty goes to the model's owner, a part of it to its parent's.
fn split_royalties(cx: &Ctx<'_>, task: &Task, royalty: u128) -> Result<Royalties> {
    let model = models::existing(cx, &task.model)?;
    let Some(parent_id) = model.parent else {
        return Ok(Royalties { owner: (model.owner, royalty), parent: None, burn: 0 });
    };
    let parent = models::existing(cx, &parent_id)?;
    let split = split_royalty(royalty, &[Dec::ppm(model.parent_part_ppm.into())])?;
    let part = split.others.first().copied().unwrap_or(0);
    Ok(Royalties { owner: (model.owner, split.owner), parent: Some((parent.owner, part)), burn: split.burn })
}
