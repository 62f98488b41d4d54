//! Workers: who serves which models, with what bond, and for which validator. See README.md.

pub mod genesis;
mod msgs;
mod params;
pub mod query;
mod state;
#[cfg(test)]
mod tests;

use deepnode_core::num::{amount, decay::decay};
use deepnode_core::{
    errors, json, Address, Ctx, Dec, Error, Event, KvRead, Messages, Module, Queries, Result, Walk,
};
use deepnode_cosmos::{auth, bank};

use crate::beacon;
use crate::models::ModelId;
pub use params::Params;
pub use state::{Next, Profile, Served, Status, Worker};
use state::{LEAVING, PARAMS, PROFILES, SERVED, SERVING, WORKERS};

/// Active workers of one model, at most: a draw walks them.
pub const MAX_SERVING: u32 = 1_000;
/// Leaving bonds that one block looks at, at most.
const PAID_A_BLOCK: usize = 100;

/// The module `workers`.
pub struct WorkersModule;

impl Module for WorkersModule {
    fn name(&self) -> &'static str {
        state::STORE
    }

    fn messages(&self, messages: &mut Messages) {
        msgs::register(messages.begin(self.name()));
    }

    fn queries(&self, queries: &mut Queries) {
        query::register(queries);
    }

    fn default_genesis(&self) -> serde_json::Value {
        serde_json::json!(genesis::Genesis::default())
    }

    fn init_genesis(&self, cx: &mut Ctx<'_>, genesis: &serde_json::Value) -> Result<()> {
        auth::ensure_module_account(cx, self.name(), &[])?;
        genesis::init(cx, json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::export(state)?)
    }

    fn end_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        pay_out(cx)
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        invariants(state)
    }
}

/// The account that holds bonds.
pub fn account() -> Address {
    Address::module(state::STORE)
}

/// The parameters.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}

/// A worker as of this epoch: its validator in force, its proven capacity decayed.
pub fn get(kv: &(impl KvRead + ?Sized), address: &Address) -> Result<Option<Worker>> {
    let Some(mut worker) = WORKERS.get(kv, address)? else { return Ok(None) };
    let epoch = beacon::epoch(kv)?.number;
    worker.backing_at(epoch);
    let epochs = epoch.saturating_sub(worker.proven_epoch);
    if epochs > 0 && worker.proven > 0 {
        let factor = Dec::ppm(PARAMS.load(kv)?.proven_decay_ppm.into());
        worker.proven = u64::try_from(decay(worker.proven.into(), factor, epochs)?).unwrap_or(u64::MAX);
    }
    worker.proven_epoch = epoch;
    Ok(Some(worker))
}

/// A worker that must exist.
pub fn existing(kv: &(impl KvRead + ?Sized), address: &Address) -> Result<Worker> {
    get(kv, address)?.ok_or_else(|| errors::not_found(format!("worker {address}")))
}

/// What a worker says about itself; empty for an unknown one.
pub fn profile(kv: &(impl KvRead + ?Sized), address: &Address) -> Result<Profile> {
    Ok(PROFILES.get(kv, address)?.unwrap_or_default())
}

/// Active workers that serve a model, by address: at most [`MAX_SERVING`].
pub fn serving<'a>(
    kv: &'a (impl KvRead + ?Sized),
    model: &ModelId,
) -> impl Iterator<Item = Result<Address>> + 'a {
    SERVING.iter_from(kv, model, Walk::FORWARD).map(|entry| Ok(entry?.1))
}

/// Number and bonds of the active workers that serve a model.
pub fn served(kv: &(impl KvRead + ?Sized), model: &ModelId) -> Result<Served> {
    Ok(SERVED.get(kv, model)?.unwrap_or_default())
}

/// Whether a worker may be drawn: active, and seen lately.
pub fn drawable(kv: &(impl KvRead + ?Sized), worker: &Worker) -> Result<bool> {
    let idle = beacon::epoch(kv)?.number.saturating_sub(worker.last_seen);
    Ok(worker.is_active() && idle <= PARAMS.load(kv)?.max_idle_epochs)
}

/// Operator of the validator that a worker backs in this epoch.
pub fn backed(kv: &(impl KvRead + ?Sized), address: &Address) -> Result<Option<Address>> {
    Ok(get(kv, address)?.and_then(|worker| worker.validator))
}

/// Takes a part of bond and leaving bond, and sends it to `to`. What was taken.
pub fn slash(cx: &mut Ctx<'_>, address: &Address, fraction: Dec, to: &Address) -> Result<u128> {
    if fraction > Dec::ONE {
        return Err(Error::fault(format!("workers: slash by {fraction}")));
    }
    let mut taken = 0;
    change(cx, address, |worker| {
        let (bond, leaving) = (fraction.of(worker.bond)?, fraction.of(worker.leaving)?);
        worker.bond = amount::sub(worker.bond, bond)?;
        worker.leaving = amount::sub(worker.leaving, leaving)?;
        taken = amount::add(bond, leaving)?;
        Ok(())
    })?;
    bank::send_udn(cx, &account(), to, taken)?;
    cx.emit(
        Event::new("worker_slashed").with("worker", address).with("amount", taken).with("fraction", fraction),
    );
    Ok(taken)
}

/// Excludes a worker for ever. What is left of its bond it may still take.
pub fn bar(cx: &mut Ctx<'_>, address: &Address) -> Result<()> {
    change(cx, address, |worker| {
        worker.status = Status::Barred;
        Ok(())
    })?;
    cx.emit(Event::new("worker_barred").with("worker", address));
    Ok(())
}

/// A worker earned udn that is not final.
pub fn add_pending(cx: &mut Ctx<'_>, address: &Address, udn: u128) -> Result<()> {
    touch(cx, address, |worker| {
        worker.pending_pay = amount::add(worker.pending_pay, udn)?;
        Ok(())
    })
}

/// Pending pay became final or was lost.
pub fn sub_pending(cx: &mut Ctx<'_>, address: &Address, udn: u128) -> Result<()> {
    touch(cx, address, |worker| {
        worker.pending_pay = worker.pending_pay.checked_sub(udn).ok_or_else(|| {
            Error::fault(format!("workers: pending pay {} of {address} less {udn}", worker.pending_pay))
        })?;
        Ok(())
    })
}

/// A worker took a task: its bond stays until this is closed.
pub fn task_opened(cx: &mut Ctx<'_>, address: &Address) -> Result<()> {
    touch(cx, address, |worker| {
        worker.open_tasks = worker.open_tasks.saturating_add(1);
        Ok(())
    })
}

/// A task is final or was taken away. A leaving bond stays for another unbonding time.
pub fn task_closed(cx: &mut Ctx<'_>, address: &Address) -> Result<()> {
    let height = cx.height().saturating_add(PARAMS.load(cx)?.unbonding_blocks);
    touch(cx, address, |worker| {
        worker.open_tasks = worker
            .open_tasks
            .checked_sub(1)
            .ok_or_else(|| Error::fault(format!("workers: {address} has no open task to close")))?;
        if worker.leaving > 0 {
            worker.leaving_height = worker.leaving_height.max(height);
        }
        Ok(())
    })
}

/// A worker delivered so many CU within so many blocks.
pub fn record_work(cx: &mut Ctx<'_>, address: &Address, cu: u64, blocks: u64) -> Result<()> {
    let epoch = beacon::epoch(cx)?.number;
    touch(cx, address, |worker| {
        worker.proven = worker.proven.max(cu.checked_div(blocks).unwrap_or(cu));
        worker.last_seen = epoch;
        Ok(())
    })
}

/// Puts a worker in place for tests of other modules; its bond is minted.
#[cfg(test)]
pub fn place(cx: &mut Ctx<'_>, address: &Address, worker: Worker, models: &[ModelId]) -> Result<()> {
    if PARAMS.get(cx)?.is_none() {
        PARAMS.set(cx, &Params::localnet())?;
    }
    bank::mint_udn(cx, &account(), amount::add(worker.bond, worker.leaving)?)?;
    PROFILES.set(cx, address, &Profile { models: models.to_vec(), ..Profile::default() })?;
    offer(cx, address, &worker, models)?;
    WORKERS.set(cx, address, &worker)
}

/// Changes of a worker that leave its bond and its status alone.
fn touch(cx: &mut Ctx<'_>, address: &Address, f: impl FnOnce(&mut Worker) -> Result<()>) -> Result<()> {
    let mut worker = existing(cx, address)?;
    f(&mut worker)?;
    WORKERS.set(cx, address, &worker)
}

/// Changes a worker; its status and the totals of its models follow its bond.
fn change(cx: &mut Ctx<'_>, address: &Address, f: impl FnOnce(&mut Worker) -> Result<()>) -> Result<Worker> {
    let before = existing(cx, address)?;
    let mut after = before.clone();
    f(&mut after)?;
    if after.status != Status::Barred {
        let enough = after.bond >= PARAMS.load(cx)?.min_bond;
        after.status = if enough { Status::Active } else { Status::Inactive };
    }
    if (before.status, before.bond) != (after.status, after.bond) {
        let models = profile(cx, address)?.models;
        withdraw(cx, address, &before, &models)?;
        offer(cx, address, &after, &models)?;
    }
    WORKERS.set(cx, address, &after)?;
    Ok(after)
}

/// Takes a worker out of the totals of these models.
fn withdraw(cx: &mut Ctx<'_>, address: &Address, worker: &Worker, models: &[ModelId]) -> Result<()> {
    for model in models {
        if !SERVING.has(cx, &(*model, *address))? {
            continue;
        }
        let Served { workers, bond } = served(cx, model)?;
        let left = workers.checked_sub(1).zip(bond.checked_sub(worker.bond));
        let (workers, bond) =
            left.ok_or_else(|| Error::fault(format!("workers: totals of {} are short", hex::encode(model))))?;
        SERVING.remove(cx, &(*model, *address))?;
        match workers {
            0 => SERVED.remove(cx, model)?,
            _ => SERVED.set(cx, model, &Served { workers, bond })?,
        }
    }
    Ok(())
}

/// Adds an active worker to the totals of these models. Where a model has its most workers, it is left out.
fn offer(cx: &mut Ctx<'_>, address: &Address, worker: &Worker, models: &[ModelId]) -> Result<()> {
    for model in models {
        let Served { workers, bond } = served(cx, model)?;
        if !worker.is_active() || workers >= MAX_SERVING {
            continue;
        }
        let total = Served { workers: workers.saturating_add(1), bond: amount::add(bond, worker.bond)? };
        SERVING.insert(cx, &(*model, *address))?;
        SERVED.set(cx, model, &total)?;
    }
    Ok(())
}

/// Pays bonds whose time has come; those with open receipts wait for another unbonding time.
fn pay_out(cx: &mut Ctx<'_>) -> Result<()> {
    let next = cx.height().saturating_add(1);
    let due: Vec<_> = LEAVING.iter_below(cx, &next).take(PAID_A_BLOCK).collect::<Result<_>>()?;
    for (height, address) in due {
        LEAVING.remove(cx, &(height, address))?;
        let mut worker = existing(cx, &address)?;
        if worker.leaving == 0 {
            continue;
        }
        if worker.open_tasks > 0 {
            let later = cx.height().saturating_add(PARAMS.load(cx)?.unbonding_blocks);
            worker.leaving_height = worker.leaving_height.max(later);
        }
        if worker.leaving_height > cx.height() {
            LEAVING.insert(cx, &(worker.leaving_height, address))?;
        } else {
            bank::send_udn(cx, &account(), &address, worker.leaving)?;
            cx.emit(Event::new("worker_unbonded").with("worker", address).with("amount", worker.leaving));
            worker.leaving = 0;
        }
        WORKERS.set(cx, &address, &worker)?;
    }
    Ok(())
}

/// All workers as last stored. Walks everything: for invariants.
pub fn all(kv: &(impl KvRead + ?Sized)) -> impl Iterator<Item = Result<(Address, Worker)>> + '_ {
    WORKERS.iter(kv, Walk::FORWARD)
}

/// The account holds all bonds, totals and index are those of the active workers, what leaves is queued.
fn invariants(kv: &dyn KvRead) -> Result<()> {
    let fault = |text: String| Err(Error::fault(format!("workers: {text}")));
    let mut bonds = 0u128;
    for entry in WORKERS.iter(kv, Walk::FORWARD) {
        let (address, worker) = entry?;
        bonds = bonds.saturating_add(worker.bond).saturating_add(worker.leaving);
        if worker.leaving > 0 {
            let mut queue = LEAVING.iter_below(kv, &worker.leaving_height.saturating_add(1));
            if !queue.any(|entry| entry.is_ok_and(|(_, queued)| queued == address)) {
                return fault(format!("{address} leaves with {} and is not in the queue", worker.leaving));
            }
        }
    }
    let held = bank::balance_udn(kv, &account())?;
    if held != bonds {
        return fault(format!("{held} udn held for bonds of {bonds} udn"));
    }
    let mut totals = std::collections::BTreeMap::<ModelId, Served>::new();
    for entry in SERVING.iter(kv, Walk::FORWARD) {
        let (model, address) = entry?;
        let worker = existing(kv, &address)?;
        if !worker.is_active() || !profile(kv, &address)?.models.contains(&model) {
            return fault(format!("{address} is listed for {} and does not serve it", hex::encode(model)));
        }
        let total = totals.entry(model).or_default();
        total.workers = total.workers.saturating_add(1);
        total.bond = total.bond.saturating_add(worker.bond);
    }
    let stored = SERVED.iter(kv, Walk::FORWARD).collect::<Result<_>>()?;
    if totals != stored {
        return fault(format!("totals are {totals:?}, stored {stored:?}"));
    }
    Ok(())
}
