//! Audits: who recomputes which result, and what follows from their verdicts. See README.md.

mod auditors;
mod blobs;
mod course;
mod errors;
mod events;
pub mod genesis;
mod invariants;
pub mod math;
mod msgs;
mod outcome;
mod params;
mod query;
mod receipts;
mod state;
mod tally;
#[cfg(test)]
mod tests;
mod vectors;

use deepnode_core::{json, Ctx, KvRead, Messages, Module, Queries, Result};
use deepnode_cosmos::auth;

pub use auditors::{deposits, levies, DEPOSITS};
pub use blobs::MAX_SHOWN;
pub use msgs::commitment;
pub use params::{params, Params};
pub use state::{AuditWork, Conviction, FinalReceipt};

use crate::{beacon, tasks};
use auditors::Panel;
use state::{FINAL_AT, PHASES};

/// Due receipts, ends of phases and final receipts that one block handles; the rest follow in the next ones.
const STEPS_A_BLOCK: usize = 500;

/// The module `audits`.
pub struct AuditsModule;

impl Module for AuditsModule {
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
        auth::ensure_module_account(cx, state::STORE, &[])?;
        auth::ensure_module_account(cx, DEPOSITS, &["burner"])?;
        genesis::init(cx, json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::export(state)?)
    }

    fn end_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        end_block(cx)
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        invariants::check(state)
    }
}

/// Ends phases, makes receipts final, decides which new ones are audited, asks for test vectors: in this order, so
/// that a dispute which ends now frees what waits for it. Without a beacon value for this block everything waits.
fn end_block(cx: &mut Ctx<'_>) -> Result<()> {
    let height = cx.height();
    let Some(now) = beacon::value(cx, height)? else { return Ok(()) };
    let below = (height.saturating_add(1), 0u64);
    let mut left = STEPS_A_BLOCK;

    let ended: Vec<(u64, u64)> = PHASES.iter_below(cx, &below).take(left).collect::<Result<_>>()?;
    left = left.saturating_sub(ended.len());
    let mut panel = None;
    for (_, id) in ended {
        let panel = known_panel(cx, &mut panel)?;
        course::step(cx, panel, id, &now)?;
    }

    let finals: Vec<(u64, u64)> = FINAL_AT.iter_below(cx, &below).take(left).collect::<Result<_>>()?;
    left = left.saturating_sub(finals.len());
    for entry in finals {
        FINAL_AT.remove(cx, &entry)?;
        receipts::finalize(cx, entry.1)?;
    }

    for id in tasks::take_due(cx, left)? {
        let panel = known_panel(cx, &mut panel)?;
        receipts::decide(cx, panel, id, &now)?;
    }
    vectors::open(cx)
}

/// The panel, read when the block first needs it. Nothing that audits do changes it within a block, but deposits:
/// who is overruled may be drawn once more.
fn known_panel<'a>(cx: &Ctx<'_>, panel: &'a mut Option<Panel>) -> Result<&'a Panel> {
    match panel {
        Some(panel) => Ok(panel),
        none => Ok(none.insert(Panel::load(cx)?)),
    }
}

/// A receipt is final: whoever takes it credits it.
pub fn push_final(cx: &mut Ctx<'_>, receipt: &FinalReceipt) -> Result<()> {
    state::FINAL.push(cx, receipt)
}

/// Takes up to `max` final receipts off their queue, oldest first.
pub fn take_final(cx: &mut Ctx<'_>, max: usize) -> Result<Vec<FinalReceipt>> {
    state::FINAL.take(cx, max)
}

/// A worker was convicted: whoever takes it lowers its score.
pub fn push_conviction(cx: &mut Ctx<'_>, conviction: &Conviction) -> Result<()> {
    state::CONVICTIONS.push(cx, conviction)
}

/// Takes up to `max` convictions off their queue, oldest first.
pub fn take_convictions(cx: &mut Ctx<'_>, max: usize) -> Result<Vec<Conviction>> {
    state::CONVICTIONS.take(cx, max)
}

/// An audit stood: whoever takes it credits the validator.
pub fn push_audit_work(cx: &mut Ctx<'_>, work: &AuditWork) -> Result<()> {
    state::AUDIT_WORK.push(cx, work)
}

/// Takes up to `max` audits that stood off their queue, oldest first.
pub fn take_audit_work(cx: &mut Ctx<'_>, max: usize) -> Result<Vec<AuditWork>> {
    state::AUDIT_WORK.take(cx, max)
}
