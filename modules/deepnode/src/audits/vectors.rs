//! Test vectors: a model becomes active once the auditors drawn for it computed one trace root.

use deepnode_core::draw::Stream;
use deepnode_core::{Ctx, Dec, Error, Result};
use deepnode_cosmos::bank;

use super::auditors::{levies, Panel, Seat};
use super::course::{self, by_power, Case};
use super::state::{Audit, Outcome, Phase, Subject, Verdict};
use super::tally::tally;
use super::{events, outcome};
use crate::{models, tasks};

/// Audits of test vectors that a block opens at most.
const MODELS_A_BLOCK: usize = 50;

/// Opens an audit for every model that waits for one; the beacon of two blocks later draws for it.
pub(super) fn open(cx: &mut Ctx<'_>) -> Result<()> {
    for id in models::pending(cx, MODELS_A_BLOCK)? {
        let model = models::get(cx, &id)?.ok_or_else(|| Error::fault("audits: a pending model is gone"))?;
        models::vector_drawn(cx, &id)?;
        let case = Case {
            subject: Subject::Vector,
            model: id,
            digest: id,
            worker: None,
            class: model.class,
            cu: 0,
            chance: Dec::ONE,
            fee: 0,
        };
        let mut audit = course::open(cx, case)?;
        let end = cx.height().saturating_add(tasks::BEACON_DELAY);
        audit.enter(cx, Phase::Draw, end)?;
        audit.save(cx)?;
    }
    Ok(())
}

/// The auditors of a test vector, by power; all of the class if these are fewer.
pub(super) fn seats(
    cx: &Ctx<'_>,
    panel: &Panel,
    audit: &Audit,
    value: &[u8; 32],
) -> Result<Vec<(Seat, u128)>> {
    let k = models::params(cx)?.vector_auditors as usize;
    let seats: Vec<&Seat> = panel.of_class(&audit.class).collect();
    by_power(&mut Stream::new(value, "audit.vector", &audit.digest), &seats, k)
}

/// More than two thirds of those drawn computed the same: the model is active and its deposit pays them. Otherwise
/// it waits for another audit, or was rejected after too many.
pub(super) fn conclude(cx: &mut Ctx<'_>, mut audit: Audit) -> Result<()> {
    let seats = audit.current().count() as u128;
    let found = tally(audit.current());
    let agreed = found.digest.filter(|_| found.right.saturating_mul(3) > seats.saturating_mul(2));
    let Some(root) = agreed else {
        outcome::finish(cx, &mut audit, Outcome::Void)?;
        models::vector_failed(cx, &audit.model)?;
        return audit.save(cx);
    };
    outcome::finish(cx, &mut audit, Outcome::Right)?;
    let deposit = models::activate(cx, &audit.model, root)?;
    let fee = deposit.checked_div(found.right).unwrap_or(0);
    for member in audit.current().filter(|m| m.verdict.is_some()) {
        if member.verdict == Some(Verdict::Right) && member.digest == root {
            bank::send_udn(cx, &levies(), &member.operator, fee)?;
            cx.emit(events::paid(&audit, &member.operator, fee, 0));
            outcome::stand(cx, &member.operator)?;
        } else {
            // Its duty suffers; the penalty is in fees, and this audit accused nobody.
            outcome::overrule(cx, &audit, &member.operator)?;
        }
    }
    audit.fee = fee;
    audit.save(cx)
}
