//! Audits: who recomputes which result, and what follows from their verdicts.

pub mod math;
mod state;

use deepnode_core::{Ctx, Result};

pub use state::{AuditWork, Conviction, FinalReceipt};

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
