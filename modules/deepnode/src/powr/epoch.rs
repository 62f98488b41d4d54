//! Powers: who signed, and what every bonded validator gets at an epoch's end.

use deepnode_core::num::decay::ema;
use deepnode_core::{Address, Ctx, Dec, Error, Event, Result, Walk};
use deepnode_cosmos::staking;

use super::math::powers::{allot, consensus_power, rescale, shares, stake_base, Seat};
use super::math::scores::{next_rho, signed_part, validator_score};
use super::state::{Signing, Standing, Terms, RHO, SIGNING, STAKE_BASE, STANDINGS, TERMS, TERMS_EPOCH};
use super::{params, scores};
use crate::{beacon, reputation};

/// Power of who enters within an epoch: it grows from there by drift.
pub(super) const ENTRY_POWER: u64 = 1;

/// Counts the last commit. Unknown validators are skipped, and absence only counts while not jailed.
pub(super) fn count_votes(cx: &mut Ctx<'_>) -> Result<()> {
    let mut counted = SIGNING.get(cx)?.unwrap_or_default();
    for vote in &cx.block().votes {
        let Some(operator) = staking::operator_of(cx, &vote.validator)? else { continue };
        let jailed = staking::validator(cx, &operator)?.is_none_or(|v| v.jailed);
        if !vote.signed && jailed {
            continue;
        }
        let signing = counted.entry(operator).or_default();
        signing.due = signing.due.saturating_add(1);
        signing.signed = signing.signed.saturating_add(vote.signed.into());
    }
    SIGNING.set(cx, &counted)
}

/// Gives power to who was jailed and unjailed within a block: it lost its power and never left the set.
pub(super) fn readmit(cx: &mut Ctx<'_>) -> Result<()> {
    for (operator, _) in staking::bonded(cx)? {
        let jailed = staking::validator(cx, &operator)?.is_none_or(|v| v.jailed);
        if !jailed && staking::power(cx, &operator)? == 0 {
            staking::set_power(cx, &operator, ENTRY_POWER)?;
        }
    }
    Ok(())
}

/// A bonded validator and what its power is made of.
struct Member {
    operator: Address,
    stake: u128,
    standing: Standing,
    signing: Signing,
    reputation: Dec,
    score: u128,
}

/// Sets the powers of all bonded validators, and keeps the terms that they follow from.
pub(super) fn set_powers(cx: &mut Ctx<'_>) -> Result<()> {
    let members = members(cx)?;
    if members.is_empty() {
        return Ok(());
    }
    let (params, epoch) = (params(cx)?, beacon::epoch(cx)?.number);
    let all_work = members.iter().fold(0u128, |sum, m| sum.saturating_add(m.standing.work));
    let last_rho = RHO.get(cx)?.unwrap_or(Dec::ONE);
    let rho = next_rho(last_rho, all_work, &params.scores())?;
    RHO.set(cx, &rho)?;
    let all_scores = members.iter().fold(0u128, |sum, m| sum.saturating_add(m.score));
    let applied = if all_scores == 0 { Dec::ONE } else { rho };

    let old = members.iter().map(|m| staking::power(cx, &m.operator)).collect::<Result<Vec<_>>>()?;
    let terms = allotted(cx, &members, &rescale(&old).map_err(Error::fault)?, applied, epoch)?;
    replace_terms(cx, epoch, &terms)?;
    for (operator, terms) in &terms {
        staking::set_power(cx, operator, terms.power)?;
    }
    cx.emit(
        Event::new("powers_set")
            .with("epoch", epoch)
            .with("validators", terms.len())
            .with("rho", applied)
            .with("work", all_work),
    );
    Ok(())
}

/// Powers of genesis: by stake alone. Validators that have power already (an export) keep it.
pub(super) fn set_genesis_powers(cx: &mut Ctx<'_>) -> Result<()> {
    if staking::powers(cx)?.iter().any(|(_, power)| *power > ENTRY_POWER) {
        return Ok(());
    }
    let members = members(cx)?;
    if members.is_empty() {
        return Ok(());
    }
    let old = vec![0; members.len()];
    let terms = allotted(cx, &members, &old, Dec::ONE, 0)?;
    replace_terms(cx, 0, &terms)?;
    terms.iter().try_for_each(|(operator, terms)| staking::set_power(cx, operator, terms.power))
}

/// The bonded validators with their epoch's signatures averaged in; a jailed one that is the last has no power to set.
fn members(cx: &mut Ctx<'_>) -> Result<Vec<Member>> {
    let counted = SIGNING.get(cx)?.unwrap_or_default();
    SIGNING.set(cx, &Default::default())?;
    let tau = params(cx)?.tau;
    let mut members = Vec::new();
    for (operator, stake) in staking::bonded(cx)? {
        if staking::validator(cx, &operator)?.is_none_or(|v| v.jailed) {
            continue;
        }
        let signing = counted.get(&operator).copied().unwrap_or_default();
        let mut standing = scores::standing(cx, &operator)?;
        let part = signed_part(signing.signed, signing.due)?;
        standing.signing = ema(standing.signing, part, tau)?;
        STANDINGS.set(cx, &operator, &standing)?;
        let reputation = reputation::duty_signed(cx, &operator, standing.signing)?;
        let score = validator_score(reputation, standing.work, standing.audit_work)?;
        members.push(Member { operator, stake, standing, signing, reputation, score });
    }
    Ok(members)
}

fn allotted(
    cx: &mut Ctx<'_>,
    members: &[Member],
    old: &[u64],
    rho: Dec,
    epoch: u64,
) -> Result<Vec<(Address, Terms)>> {
    let params = params(cx)?.powers();
    let all_stake = members.iter().fold(0u128, |sum, m| sum.saturating_add(m.stake));
    let base = stake_base(all_stake, STAKE_BASE.get(cx)?, &params)?;
    STAKE_BASE.set(cx, &base)?;
    let scores: Vec<u128> = members.iter().map(|m| m.score).collect();
    let stakes: Vec<u128> = members.iter().map(|m| m.stake).collect();
    let shares = shares(&scores, &stakes, rho).map_err(Error::fault)?;
    let seats = members.iter().zip(&shares).zip(old).map(|((member, share), old)| {
        let part = signed_part(member.signing.signed, member.signing.due)?;
        Ok(Seat { share: *share, old: *old, stake: member.stake, signed: part >= params.min_signed })
    });
    let seats = seats.collect::<Result<Vec<_>>>()?;
    let allotments = allot(&seats, base, &params).map_err(Error::fault)?;
    Ok(members
        .iter()
        .zip(seats)
        .zip(allotments)
        .map(|((member, seat), a)| {
            let terms = Terms {
                epoch,
                stake: member.stake,
                work: member.standing.work,
                audit_work: member.standing.audit_work,
                reputation: member.reputation,
                score: member.score,
                q: seat.share,
                collateral: a.collateral,
                cap: a.cap,
                old: seat.old,
                low: a.low,
                high: a.high,
                power: consensus_power(a.power),
                signing: member.signing,
                rho,
            };
            (member.operator, terms)
        })
        .collect())
}

fn replace_terms(cx: &mut Ctx<'_>, epoch: u64, terms: &[(Address, Terms)]) -> Result<()> {
    let before: Vec<Address> =
        TERMS.iter(cx, Walk::FORWARD).map(|entry| Ok(entry?.0)).collect::<Result<_>>()?;
    before.iter().try_for_each(|operator| TERMS.remove(cx, operator))?;
    TERMS_EPOCH.set(cx, &epoch)?;
    terms.iter().try_for_each(|(operator, terms)| TERMS.set(cx, operator, terms))
}
