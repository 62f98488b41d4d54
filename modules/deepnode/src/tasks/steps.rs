//! The steps that the chain takes by itself: assigning, giving to the next, fixing seeds, ending deadlines.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use deepnode_core::draw::draw;
use deepnode_core::num::amount;
use deepnode_core::{Address, Ctx, Dec, Error, KvRead, Result};

use super::state::{self, Earlier, Status, Task};
use super::{events, params, pay};
use crate::audits::math;
use crate::models::{self, Class};
use crate::{beacon, reputation, workers};

/// Steps that one block takes at most; the rest follow in the next ones.
const STEPS_A_BLOCK: usize = 500;
/// Draws that may find nobody before the task is refunded.
const EMPTY_DRAWS: u32 = 3;
/// What a worker without any reputation weighs in a draw, so that it can gain some.
const START: Dec = Dec::percent(5);

/// How a worker lost a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Declined,
    NotAccepted,
    Late,
}

/// A worker that could be drawn.
struct Candidate {
    worker: Address,
    validator: Option<Address>,
    weight: u128,
    /// Pending pay that it may still add, udn.
    room: u128,
}

/// Takes the steps that are due. No message is to blame for what fails here.
pub(super) fn end_block(cx: &mut Ctx<'_>) -> Result<()> {
    take_steps(cx).map_err(|e| Error::fault(format!("tasks: {e}")))
}

fn take_steps(cx: &mut Ctx<'_>) -> Result<()> {
    let next = cx.height().saturating_add(1);
    let due: Vec<(u64, u64)> =
        state::DUE.iter_below(cx, &(next, 0u64)).take(STEPS_A_BLOCK).collect::<Result<_>>()?;
    let mut candidates = BTreeMap::new();
    for (_, id) in due {
        let task = state::known(cx, id)?;
        match task.status {
            Status::Open => assign(cx, task, &mut candidates)?,
            Status::Assigned => reassign(cx, task, Lost::NotAccepted)?,
            Status::Accepted if task.needs_seed()? => fix_seed(cx, task)?,
            Status::Accepted => reassign(cx, task, Lost::Late)?,
            other => return Err(Error::fault(format!("task {id} is {other:?} and has a next step"))),
        }
    }
    Ok(())
}

/// Draws a worker among those that serve the model.
fn assign(cx: &mut Ctx<'_>, mut task: Task, known: &mut BTreeMap<[u8; 32], Vec<Candidate>>) -> Result<()> {
    let Some(value) = beacon::value(cx, task.draw_height)? else {
        return wait(cx, task);
    };
    let class = class_of(cx, &task)?;
    let candidates = match known.entry(task.model) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(candidates(cx, &task.model, &class)?),
    };
    let (_, pay) = pay::greatest(cx, &task)?;
    let eligible: Vec<&Candidate> = candidates
        .iter()
        .filter(|c| c.room >= pay && !task.earlier.iter().any(|e| e.worker == c.worker))
        .collect();
    let weights: Vec<(Address, u128)> = eligible.iter().map(|c| (c.worker, c.weight)).collect();
    let drawn = draw(&value, "task.worker", &task.id.to_be_bytes(), &weights, 1).map_err(Error::fault)?;
    let Some(worker) = drawn.first().copied() else {
        return nobody(cx, task);
    };
    let validators: BTreeSet<Address> = eligible.iter().filter_map(|c| c.validator).collect();
    task.workers_in_draw = u32::try_from(eligible.len()).unwrap_or(u32::MAX);
    task.validators_in_draw = u32::try_from(validators.len()).unwrap_or(u32::MAX);
    task.status = Status::Assigned;
    task.worker = Some(worker);
    task.assigned_height = cx.height();
    state::BY_WORKER.insert(cx, &(worker, task.id))?;
    let last = cx.height().saturating_add(params(cx)?.accept_blocks);
    task.schedule(cx, last)?;
    task.save(cx)?;
    cx.emit(events::assigned(&task, &worker, last));
    Ok(())
}

/// Nobody could be drawn: tried again a while later, refunded in the end.
fn nobody(cx: &mut Ctx<'_>, mut task: Task) -> Result<()> {
    task.empty_draws = task.empty_draws.saturating_add(1);
    if task.empty_draws >= EMPTY_DRAWS {
        return pay::refund(cx, task, Status::Refunded, "no worker");
    }
    task.draw_height = cx.height().saturating_add(params(cx)?.accept_blocks);
    let due = task.draw_height;
    task.schedule(cx, due)?;
    task.save(cx)
}

/// The beacon's value is not there yet: delayed, and otherwise unchanged.
fn wait(cx: &mut Ctx<'_>, mut task: Task) -> Result<()> {
    let next = cx.height().saturating_add(1);
    task.schedule(cx, next)?;
    task.save(cx)
}

/// Takes the task from its worker; another one is drawn, unless too many had it.
pub(super) fn reassign(cx: &mut Ctx<'_>, mut task: Task, how: Lost) -> Result<()> {
    let worker = task.assignee()?;
    state::BY_WORKER.remove(cx, &(worker, task.id))?;
    let reason = match how {
        Lost::Declined => "declined",
        Lost::NotAccepted => "not accepted",
        Lost::Late => "late",
    };
    if how == Lost::Late {
        late(cx, &task, &worker)?;
        workers::task_closed(cx, &worker)?;
    }
    cx.emit(events::lost(&task, &worker, reason));
    task.earlier.push(Earlier { worker, silent: how == Lost::NotAccepted });
    task.worker = None;
    task.status = Status::Open;
    // A seed that the chain fixed was for that acceptance.
    task.seed = task.request()?.sampling.and_then(|s| s.seed.as_slice().try_into().ok());
    if task.earlier.len() > params(cx)?.reassignments as usize {
        return pay::refund(cx, task, Status::Refunded, reason);
    }
    task.draw_height = cx.height().saturating_add(state::BEACON_DELAY);
    let due = task.draw_height;
    task.schedule(cx, due)?;
    task.save(cx)
}

/// Counts against a worker that the task was late by its fault.
pub(super) fn late(cx: &mut Ctx<'_>, task: &Task, worker: &Address) -> Result<()> {
    let class = class_of(cx, task)?;
    let (cu, price) = pay::greatest(cx, task)?;
    let p = audit_chance(cx, worker, &class, price)?;
    reputation::late(cx, worker, &class.capability(), cu, &class, p)?;
    cx.emit(events::late(task, worker, p));
    Ok(())
}

/// Seed = BLAKE3(beacon of acceptance + 2, task id as 8 bytes, big-endian).
fn fix_seed(cx: &mut Ctx<'_>, mut task: Task) -> Result<()> {
    let height = task.accepted_height.saturating_add(state::BEACON_DELAY);
    let Some(value) = beacon::value(cx, height)? else {
        // Whoever waits for the chain is not late by it.
        task.deadline_height = task.deadline_height.saturating_add(1);
        return wait(cx, task);
    };
    let seed = *blake3::Hasher::new().update(&value).update(&task.id.to_be_bytes()).finalize().as_bytes();
    task.seed = Some(seed);
    let due = task.deadline_height;
    task.schedule(cx, due)?;
    task.save(cx)?;
    cx.emit(events::seeded(&task, &task.assignee()?, &seed));
    Ok(())
}

/// The workers of a model with their weights: min(declared, 2 proven + speed bond / bonds) (R + 5%), in CU a block,
/// bonds those of all who serve the model.
fn candidates(cx: &Ctx<'_>, model: &[u8; 32], class: &Class) -> Result<Vec<Candidate>> {
    let serving: Vec<Address> = workers::serving(cx, model).collect::<Result<_>>()?;
    let bonds = workers::served(cx, model)?.bond;
    let mut candidates = Vec::new();
    for address in serving {
        let worker = workers::existing(cx, &address)?;
        if !workers::drawable(cx, &worker)? {
            continue;
        }
        let reputation = reputation::value(cx, &address, &class.capability())?;
        let by_bond = if bonds == 0 { 0 } else { amount::mul_div(class.speed.into(), worker.bond, bonds)? };
        let proven = amount::mul(worker.proven.into(), 2)?;
        let capacity = amount::add(proven, by_bond)?.min(worker.declared.into());
        // In millionths of a CU, so that small capacities keep their proportions.
        let weight = reputation.checked_add(START)?.of(amount::mul(capacity, crate::params::MICRO)?)?;
        let limit = math::pending_limit(worker.bond, reputation)?;
        let room = limit.saturating_sub(worker.pending_pay);
        candidates.push(Candidate { worker: address, validator: worker.validator, weight, room });
    }
    Ok(candidates)
}

/// The class of a task's model.
pub(super) fn class_of(kv: &(impl KvRead + ?Sized), task: &Task) -> Result<Class> {
    models::class(kv, &task.class)?
        .ok_or_else(|| Error::fault(format!("task {}: no class {}", task.id, task.class)))
}

/// A worker's pending pay and its limit, udn; nothing is left to who is not active any more.
pub(super) fn pending(kv: &(impl KvRead + ?Sized), worker: &Address, class: &Class) -> Result<(u128, u128)> {
    let reputation = reputation::value(kv, worker, &class.capability())?;
    match workers::get(kv, worker)?.filter(|w| w.is_active()) {
        Some(state) => Ok((state.pending_pay, math::pending_limit(state.bond, reputation)?)),
        None => Ok((0, 0)),
    }
}

/// The chance that a receipt of `worker` worth `price` udn is audited.
pub fn audit_chance(
    kv: &(impl KvRead + ?Sized),
    worker: &Address,
    class: &Class,
    price: u128,
) -> Result<Dec> {
    let bond = workers::get(kv, worker)?.map_or(0, |w| w.bond);
    let reputation = reputation::value(kv, worker, &class.capability())?;
    Ok(math::audit_chance(price, 1, bond, reputation, &super::audit_params(kv)?)?)
}
