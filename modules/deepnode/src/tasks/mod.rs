//! Tasks: one request each, from its escrow to its settlement. See README.md.

mod errors;
mod events;
pub mod genesis;
mod invariants;
pub mod math;
mod msgs;
mod params;
mod pay;
pub mod query;
mod receipt;
mod request;
mod state;
mod steps;
#[cfg(test)]
mod tests;

use deepnode_core::{json, Ctx, Dec, Error, KvRead, Messages, Module, Queries, Result, Walk};
use deepnode_cosmos::auth;

use crate::beacon;
use crate::params::AuditParams;

pub use params::{audit_params, params, Params};
pub use pay::{convict, escrow_account, price, settle, void, Price};
pub use receipt::CANON;
pub use request::{estimate, Estimate};
pub use state::{Earlier, Finish, Receipt, Settlement, Status, Task, BEACON_DELAY};
pub use steps::audit_chance;

/// The module `tasks`.
pub struct TasksModule;

impl Module for TasksModule {
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
        auth::ensure_module_account(cx, self.name(), &["burner"])?;
        genesis::init(cx, json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::export(state)?)
    }

    /// Takes the steps that are due: draws, expiries, seeds, deadlines.
    fn end_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        steps::end_block(cx)
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        invariants::check(state)
    }
}

/// The task `id`.
pub fn get(kv: &(impl KvRead + ?Sized), id: u64) -> Result<Option<Task>> {
    state::TASKS.get(kv, &id)
}

/// All tasks, closed ones too. Walks everything: for invariants.
pub fn all(kv: &(impl KvRead + ?Sized)) -> impl Iterator<Item = Result<(u64, Task)>> + '_ {
    state::TASKS.iter(kv, Walk::FORWARD)
}

/// Tells what the chance of an audit is computed with. Lateness counts in proportion to that chance, and audits, whose
/// parameters these are, comes later in the order of modules: it calls this at genesis and whenever they change.
pub fn set_audit_params(cx: &mut Ctx<'_>, params: &AuditParams) -> Result<()> {
    state::AUDIT_PARAMS.set(cx, params)
}

/// Takes up to `max` receipts whose beacon, that of [`BEACON_DELAY`] blocks after the receipt, is there: it says whether
/// they are audited. Oldest first; each is given once and wants [`set_audit`].
pub fn take_due(cx: &mut Ctx<'_>, max: usize) -> Result<Vec<u64>> {
    let next = cx.height().saturating_add(1);
    let front: Vec<(u64, u64)> =
        state::RECEIPTS_DUE.iter_below(cx, &(next, 0u64)).take(max).collect::<Result<_>>()?;
    let mut taken = Vec::new();
    for (height, id) in front {
        if beacon::value(cx, height)?.is_none() {
            break;
        }
        state::RECEIPTS_DUE.remove(cx, &(height, id))?;
        let mut task = state::known(cx, id)?;
        task.decided = true;
        task.save(cx)?;
        taken.push(id);
    }
    Ok(taken)
}

/// Records the chance of an audit of a receipt and whether the beacon drew it. The levy follows the chance.
pub fn set_audit(cx: &mut Ctx<'_>, id: u64, chance: Dec, drawn: bool) -> Result<()> {
    let mut task = state::known(cx, id)?;
    if task.status != Status::Submitted {
        return Err(Error::fault(format!("task {id} is {:?}, only a submitted one is audited", task.status)));
    }
    (task.audit_chance, task.drawn) = (chance, drawn);
    task.save(cx)
}
