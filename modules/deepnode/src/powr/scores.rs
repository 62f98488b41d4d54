//! Scores of workers and of the validators that they back: credit in, decay by the epoch.

use deepnode_core::num::{amount, decay::average_factor, decay::decay};
use deepnode_core::{Address, Ctx, Error, KvRead, Result};

use super::math::credit::{credit, Origin, Terms};
use super::math::scores::{after_conviction, audit_gain, gain};
use super::state::{Score, Standing, SCORES, STANDINGS};
use super::{params, Params};
use crate::audits::{AuditWork, Conviction, FinalReceipt};
use crate::{beacon, models, reputation, workers};

/// A worker's score now.
pub fn score(kv: &(impl KvRead + ?Sized), worker: &Address) -> Result<Score> {
    let mut score = SCORES.get(kv, worker)?.unwrap_or_default();
    let now = beacon::epoch(kv)?.number;
    score.value = faded(score.value, score.epoch, now, &params(kv)?)?;
    score.epoch = now.max(score.epoch);
    Ok(score)
}

/// A validator's standing now.
pub fn standing(kv: &(impl KvRead + ?Sized), operator: &Address) -> Result<Standing> {
    let mut standing = STANDINGS.get(kv, operator)?.unwrap_or_default();
    let (now, params) = (beacon::epoch(kv)?.number, params(kv)?);
    standing.work = faded(standing.work, standing.epoch, now, &params)?;
    standing.audit_work = faded(standing.audit_work, standing.epoch, now, &params)?;
    standing.epoch = now.max(standing.epoch);
    Ok(standing)
}

fn faded(value: u128, since: u64, now: u64, params: &Params) -> Result<u128> {
    Ok(decay(value, average_factor(params.tau)?, now.saturating_sub(since))?)
}

/// Credits a final receipt to its worker and to the validator that the worker backs.
pub(super) fn credit_receipt(cx: &mut Ctx<'_>, r: &FinalReceipt) -> Result<()> {
    let params = params(cx)?;
    let class = models::class(cx, &r.class)?
        .ok_or_else(|| Error::fault(format!("powr: task {} is of no class {}", r.task, r.class)))?;
    let origin = match r.user_chosen {
        true => Origin::Chosen,
        false => Origin::Drawn { workers: r.workers_in_draw.into(), validators: r.validators_in_draw.into() },
    };
    let terms = Terms { price: r.price, ref_price: class.ref_price, scored: r.scored, origin };
    let c = credit(r.cu.into(), &terms, &params.scores())?;
    let reputation = reputation::value(cx, &r.worker, &class.capability())?;
    let gained = gain(c, reputation, params.tau)?;

    let mut score = score(cx, &r.worker)?;
    move_score(cx, &r.worker, &mut score)?;
    if gained == 0 {
        return Ok(());
    }
    score.value = amount::add(score.value, gained)?;
    SCORES.set(cx, &r.worker, &score)?;
    change(cx, score.validator.as_ref(), |v| {
        v.work = amount::add(v.work, gained)?;
        Ok(())
    })
}

/// Takes a score along if the worker backs another validator than when it was last touched.
fn move_score(cx: &mut Ctx<'_>, worker: &Address, score: &mut Score) -> Result<()> {
    let now = workers::backed(cx, worker)?;
    if now == score.validator {
        return Ok(());
    }
    let value = score.value;
    change(cx, score.validator.as_ref(), |v| {
        v.work = v.work.saturating_sub(value);
        Ok(())
    })?;
    change(cx, now.as_ref(), |v| {
        v.work = amount::add(v.work, value)?;
        Ok(())
    })?;
    score.validator = now;
    if value > 0 {
        SCORES.set(cx, worker, score)?;
    }
    Ok(())
}

/// S becomes S R'/R; what the worker loses its validator loses too.
pub(super) fn convict(cx: &mut Ctx<'_>, conviction: &Conviction) -> Result<()> {
    let mut score = score(cx, &conviction.worker)?;
    let left = after_conviction(score.value, conviction.before, conviction.after)?;
    let lost = score.value.saturating_sub(left);
    if lost == 0 {
        return Ok(());
    }
    score.value = left;
    SCORES.set(cx, &conviction.worker, &score)?;
    change(cx, score.validator.as_ref(), |v| {
        v.work = v.work.saturating_sub(lost);
        Ok(())
    })
}

/// Credits a validator with an audit that stood.
pub(super) fn credit_audit(cx: &mut Ctx<'_>, work: &AuditWork) -> Result<()> {
    let gained = audit_gain(work.cu.into(), &params(cx)?.scores())?;
    change(cx, Some(&work.operator), |v| {
        v.audit_work = amount::add(v.audit_work, gained)?;
        Ok(())
    })
}

/// The key of this validator signed two blocks: its workers' scores no longer count for it.
pub(super) fn void_work(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    change(cx, Some(operator), |v| {
        (v.work, v.audit_work) = (0, 0);
        Ok(())
    })
}

fn change(
    cx: &mut Ctx<'_>,
    operator: Option<&Address>,
    f: impl FnOnce(&mut Standing) -> Result<()>,
) -> Result<()> {
    let Some(operator) = operator else { return Ok(()) };
    let mut standing = standing(cx, operator)?;
    f(&mut standing)?;
    STANDINGS.set(cx, operator, &standing)
}
