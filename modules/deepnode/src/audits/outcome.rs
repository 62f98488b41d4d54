//! What follows from a verdict: pay, refund, conviction, and what becomes of the auditors.

use std::collections::BTreeMap;

use deepnode_core::{Address, Ctx, Dec, Error, KvRead, Result};
use deepnode_cosmos::bank;

use super::auditors::{self, deposits, levies};
use super::math;
use super::state::{Audit, AuditWork, Convicted, Conviction, Outcome, Phase, Subject, Verdict};
use super::state::{AUDIT_WORK, BY_MODEL, CONVICTED, CONVICTIONS, FINAL_AT, FROZEN, SEATS, SHOWN};
use super::tally::tally;
use super::{events, params};
use crate::models::{self, Class};
use crate::tasks::{self, Task};
use crate::{beacon, reputation, workers};

/// Closes an audit of a receipt. A fault if it is none.
pub(super) fn close(cx: &mut Ctx<'_>, mut audit: Audit, outcome: Outcome) -> Result<()> {
    let (Some(id), Some(worker)) = (audit.task(), audit.worker) else {
        return Err(Error::fault(format!("audit {} is about no receipt", audit.id)));
    };
    finish(cx, &mut audit, outcome)?;
    let task =
        tasks::get(cx, id)?.ok_or_else(|| Error::fault(format!("audit {}: no task {id}", audit.id)))?;
    let standings = standings(&audit, outcome);
    let stood: Vec<Address> = standings.iter().filter(|(_, stood)| **stood).map(|(a, _)| *a).collect();
    let fee = pay_fees(cx, &audit, stood.len())?;
    let mut share = 0;
    match outcome {
        Outcome::Right => {
            let class = class_of(cx, &audit)?;
            reputation::pass(cx, &worker, &class.capability(), audit.cu, &class)?;
            let height = cx.height();
            FINAL_AT.insert(cx, &(height, id))?;
        }
        Outcome::Wrong | Outcome::Withheld => share = convict(cx, &audit, &task, &worker, stood.len())?,
        Outcome::Void => tasks::void(cx, id)?,
    }
    for (operator, stood) in standings {
        if stood {
            bank::send_udn(cx, &levies(), &operator, fee)?;
            bank::send_udn(cx, &deposits(), &operator, share)?;
            cx.emit(events::paid(&audit, &operator, fee, share));
            stand(cx, &operator)?;
            AUDIT_WORK.push(cx, &AuditWork { operator, cu: audit.cu })?;
        } else {
            overrule(cx, &audit, &operator)?;
        }
    }
    audit.save(cx)
}

/// Takes the audit out of every queue and index of open ones.
pub(super) fn finish(cx: &mut Ctx<'_>, audit: &mut Audit, outcome: Outcome) -> Result<()> {
    audit.enter(cx, Phase::Closed, 0)?;
    audit.outcome = Some(outcome);
    audit.closed_height = cx.height();
    for member in &audit.members {
        SEATS.remove(cx, &(member.operator, audit.id))?;
    }
    SHOWN.remove(cx, &audit.id)?;
    if audit.subject == Subject::Vector {
        BY_MODEL.remove(cx, &audit.model)?;
    }
    if let (Some(worker), true) = (audit.worker, audit.frozen) {
        match FROZEN.get(cx, &worker)?.unwrap_or(0).saturating_sub(1) {
            0 => FROZEN.remove(cx, &worker)?,
            open => FROZEN.set(cx, &worker, &open)?,
        }
        audit.frozen = false;
    }
    cx.emit(events::closed(audit, outcome));
    Ok(())
}

/// Whether each auditor that spoke stood; its last word counts. Nobody is judged by an audit without decision, nor
/// for a digest of a draw in which as many computed another one.
fn standings(audit: &Audit, outcome: Outcome) -> BTreeMap<Address, bool> {
    let mut standings = BTreeMap::new();
    if outcome == Outcome::Void {
        return standings;
    }
    if outcome == Outcome::Withheld {
        standings.extend(audit.reporter.map(|operator| (operator, true)));
    }
    for draw in 0..=audit.draw() {
        let digest = tally(audit.members_of(draw)).digest;
        for member in audit.members_of(draw) {
            let stood = match (member.verdict, outcome) {
                (None, _) => continue,
                (Some(Verdict::Right), Outcome::Right) => match digest {
                    Some(digest) => member.digest == digest,
                    None => continue,
                },
                (Some(Verdict::Right), Outcome::Wrong) => false,
                // It had the blobs when it asked.
                (Some(Verdict::Right), _) => continue,
                (Some(_), outcome) => outcome != Outcome::Right,
            };
            standings.insert(member.operator, stood);
        }
    }
    standings
}

/// What the levies can pay to each of `auditors`: the fee, or less if they are short.
fn pay_fees(cx: &Ctx<'_>, audit: &Audit, auditors: usize) -> Result<u128> {
    let there = bank::balance_udn(cx, &levies())?;
    Ok(match there.checked_div(auditors as u128) {
        Some(each) => each.min(audit.fee),
        None => 0,
    })
}

/// Its verdict stood.
pub(super) fn stand(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    reputation::duty_stood(cx, operator)?;
    auditors::change(cx, operator, |a| a.stood = a.stood.saturating_add(1))
}

/// Its verdict did not stand: part of its deposit goes to those who audit, by way of the levies.
pub(super) fn overrule(cx: &mut Ctx<'_>, audit: &Audit, operator: &Address) -> Result<()> {
    let rules = params::rules(cx)?;
    let mut penalty = 0;
    auditors::change(cx, operator, |a| {
        penalty = math::wrong_verdict_penalty(a.deposit, audit.fee, &rules);
        a.deposit = a.deposit.saturating_sub(penalty);
        a.overruled = a.overruled.saturating_add(1);
    })?;
    bank::send_udn(cx, &deposits(), &levies(), penalty)?;
    reputation::duty_wrong(cx, operator)?;
    cx.emit(events::overruled(audit, operator, penalty));
    Ok(())
}

/// The receipt is wrong: its user gets the escrow back, the worker loses reputation and bond. Receipts from before
/// the worker's last conviction belong to that offence: refunded, and not punished again. Returns what each of
/// `auditors` gets of the bond; it lies in the account of the deposits.
fn convict(cx: &mut Ctx<'_>, audit: &Audit, task: &Task, worker: &Address, auditors: usize) -> Result<u128> {
    let refunded = task.escrow;
    tasks::convict(cx, task.id)?;
    if forfeited(cx, worker, task.receipt_height)? {
        return Ok(0);
    }
    let class = class_of(cx, audit)?;
    let epoch = beacon::epoch(cx)?.number;
    let again = match CONVICTED.get(cx, worker)? {
        Some(last) => epoch.saturating_sub(last.epoch) <= reputation::params(cx)?.half_life,
        None => false,
    };
    let (before, mut after) = reputation::wrong(cx, worker, &class.capability(), audit.cu, &class)?;
    let mut fraction = params::rules(cx)?.slash;
    if again {
        reputation::forfeit(cx, worker, &class.capability())?;
        (fraction, after) = (Dec::ONE, Dec::ZERO);
    }
    let taken = workers::slash(cx, worker, fraction, &deposits())?;
    // The escrow has made the user whole, so nothing is owed to it out of the bond.
    let owed = tasks::price(task)?.total.saturating_sub(refunded);
    let split = math::split_slashed(taken, owed, auditors as u64);
    bank::send_udn(cx, &deposits(), &task.creator, split.users)?;
    bank::burn_udn(cx, &deposits(), split.burn)?;
    CONVICTIONS
        .push(cx, &Conviction { worker: *worker, before, after: if again { Dec::ZERO } else { after } })?;
    let height = cx.height();
    CONVICTED.set(cx, worker, &Convicted { height, epoch })?;
    cx.emit(events::convicted(audit, worker, taken, refunded, &split));
    Ok(split.each_auditor)
}

/// Whether a receipt of that height was pending when its worker was convicted: its pay is lost.
pub(super) fn forfeited(kv: &(impl KvRead + ?Sized), worker: &Address, receipt_height: u64) -> Result<bool> {
    Ok(CONVICTED.get(kv, worker)?.is_some_and(|last| receipt_height <= last.height))
}

fn class_of(kv: &(impl KvRead + ?Sized), audit: &Audit) -> Result<Class> {
    models::class(kv, &audit.class)?
        .ok_or_else(|| Error::fault(format!("audit {}: no class {}", audit.id, audit.class)))
}

/// An auditor's fee for a receipt of that compute price, in udn.
pub(super) fn fee(kv: &(impl KvRead + ?Sized), compute: u128) -> Result<u128> {
    Ok(params::rules(kv)?.fee.of(compute)?)
}
