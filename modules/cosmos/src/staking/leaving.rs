//! Stake on its way: unbonding entries and redelegations, which answer for the validator they left until they
//! mature.

use deepnode_core::num::amount;
use deepnode_core::{errors, Address, Ctx, Dec, Result, Time, Walk};

use super::state::*;
use super::validators::{self, required};
use super::{delegations, errors as refusals, events, params};
use crate::bank;

/// Queue entries of each kind that mature in one block; the rest follow in the next ones.
const MATURE_A_BLOCK: usize = 500;

/// What a slash did to stake on its way.
pub(super) struct Slashed {
    /// udn that it owed, of which some may have been slashed away before.
    pub owed: u128,
    /// udn that were burned.
    pub burned: u128,
}

/// The end of a queue whose entries are due at `now` or before.
pub(super) fn next_instant(now: Time) -> Time {
    Time(now.0.saturating_add(1))
}

/// Refuses one entry more than a delegator may have with a validator.
pub(super) fn check_unbonding_room(cx: &Ctx<'_>, delegator: &Address, operator: &Address) -> Result<()> {
    let entries = UNBONDINGS.get(cx, &(*delegator, *operator))?.map_or(0, |e| e.len());
    if entries >= usize::try_from(params(cx)?.max_entries).unwrap_or(usize::MAX) {
        return Err(refusals::too_many_unbondings());
    }
    Ok(())
}

/// Refuses one redelegation more than allowed, and one of stake that still answers for a third validator.
pub(super) fn check_redelegation_room(
    cx: &Ctx<'_>,
    delegator: &Address,
    from: &Address,
    to: &Address,
) -> Result<()> {
    if REDELEGATIONS_TO.iter_from(cx, &(*delegator, *from), Walk::FORWARD).next().is_some() {
        return Err(refusals::transitive_redelegation());
    }
    let entries = REDELEGATIONS.get(cx, &(*delegator, *from, *to))?.map_or(0, |e| e.len());
    if entries >= usize::try_from(params(cx)?.max_entries).unwrap_or(usize::MAX) {
        return Err(refusals::too_many_redelegations());
    }
    Ok(())
}

/// Queues `amount` udn of the not-bonded pool for the delegator; when they arrive.
pub(super) fn begin_unbonding(
    cx: &mut Ctx<'_>,
    delegator: &Address,
    operator: &Address,
    amount: u128,
) -> Result<Time> {
    let (height, completion) = (cx.height(), cx.time().plus_secs(params(cx)?.unbonding_time));
    let pair = (*delegator, *operator);
    let mut entries = UNBONDINGS.get(cx, &pair)?.unwrap_or_default();
    match entries.iter_mut().find(|e| e.height == height && e.completion == completion) {
        Some(entry) => {
            entry.initial = amount::add(entry.initial, amount)?;
            entry.balance = amount::add(entry.balance, amount)?;
        }
        None => entries.push(UnbondingEntry { height, completion, initial: amount, balance: amount }),
    }
    UNBONDINGS.set(cx, &pair, &entries)?;
    UNBONDING_DELEGATORS.insert(cx, &(*operator, *delegator))?;
    UNBONDING_QUEUE.insert(cx, &(completion, *delegator, *operator))?;
    Ok(completion)
}

/// Remembers a redelegation for as long as its stake answers for `from`; until when. `source` is the validator
/// that it left, before it did.
pub(super) fn begin_redelegation(
    cx: &mut Ctx<'_>,
    delegator: &Address,
    from: &Address,
    source: &Validator,
    to: &Address,
    amount: u128,
    shares: Dec,
) -> Result<Time> {
    let (height, completion) = match source.status {
        Status::Bonded => (cx.height(), cx.time().plus_secs(params(cx)?.unbonding_time)),
        Status::Unbonding => (source.unbonding_height, source.unbonding_time),
        Status::Unbonded => return Ok(cx.time()),
    };
    let triple = (*delegator, *from, *to);
    let mut entries = REDELEGATIONS.get(cx, &triple)?.unwrap_or_default();
    entries.push(RedelegationEntry { height, completion, initial: amount, shares });
    REDELEGATIONS.set(cx, &triple, &entries)?;
    REDELEGATIONS_FROM.insert(cx, &(*from, *delegator, *to))?;
    REDELEGATIONS_TO.insert(cx, &(*delegator, *to, *from))?;
    REDELEGATION_QUEUE.insert(cx, &(completion, *delegator, *from, *to))?;
    Ok(completion)
}

/// Writes what is left of the entries of a pair.
fn put_unbondings(cx: &mut Ctx<'_>, pair: (Address, Address), entries: &Vec<UnbondingEntry>) -> Result<()> {
    if entries.is_empty() {
        UNBONDINGS.remove(cx, &pair)?;
        return UNBONDING_DELEGATORS.remove(cx, &(pair.1, pair.0));
    }
    UNBONDINGS.set(cx, &pair, entries)
}

/// Delegates `amount` udn of the unbonding entry of `height` back to its validator.
pub fn cancel_unbonding(
    cx: &mut Ctx<'_>,
    delegator: &Address,
    operator: &Address,
    height: u64,
    amount: u128,
) -> Result<()> {
    let validator = required(cx, operator)?;
    if validator.jailed {
        return Err(refusals::validator_jailed());
    }
    let pair = (*delegator, *operator);
    let mut entries = UNBONDINGS.get(cx, &pair)?.ok_or_else(refusals::no_unbonding)?;
    let found = entries.iter().position(|e| e.height == height && e.completion > cx.time());
    let Some((at, entry)) = found.and_then(|at| Some((at, entries.get_mut(at)?))) else {
        return Err(errors::not_found(format!(
            "no unbonding delegation entry of creation height {height} that has not completed"
        )));
    };
    if entry.balance < amount {
        return Err(errors::invalid_request(format!(
            "amount {amount} is greater than the unbonding delegation entry balance {}",
            entry.balance
        )));
    }
    entry.balance = amount::sub(entry.balance, amount)?;
    entry.initial = entry.initial.saturating_sub(amount);
    if entry.balance == 0 {
        entries.remove(at);
    }
    put_unbondings(cx, pair, &entries)?;
    let (from, to) = (Address::module(NOT_BONDED_POOL), validator.pool());
    if from != to {
        bank::send_udn(cx, &from, &to, amount)?;
    }
    delegations::credit(cx, delegator, operator, amount)?;
    Ok(())
}

/// Pays what has finished unbonding, and forgets redelegations that have: a bounded number each.
pub(super) fn complete(cx: &mut Ctx<'_>) -> Result<()> {
    let end = next_instant(cx.time());
    let due: Vec<_> = UNBONDING_QUEUE.iter_below(cx, &end).take(MATURE_A_BLOCK).collect::<Result<_>>()?;
    for (time, delegator, operator) in due {
        UNBONDING_QUEUE.remove(cx, &(time, delegator, operator))?;
        pay(cx, delegator, operator)?;
    }
    let due: Vec<_> = REDELEGATION_QUEUE.iter_below(cx, &end).take(MATURE_A_BLOCK).collect::<Result<_>>()?;
    for (time, delegator, from, to) in due {
        REDELEGATION_QUEUE.remove(cx, &(time, delegator, from, to))?;
        release(cx, delegator, from, to)?;
    }
    Ok(())
}

fn pay(cx: &mut Ctx<'_>, delegator: Address, operator: Address) -> Result<()> {
    // A cancelled entry left its place in the queue.
    let Some(entries) = UNBONDINGS.get(cx, &(delegator, operator))? else { return Ok(()) };
    let now = cx.time();
    let (mature, rest): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.completion <= now);
    if mature.is_empty() {
        return Ok(());
    }
    put_unbondings(cx, (delegator, operator), &rest)?;
    let paid = mature.iter().try_fold(0, |sum, e| amount::add(sum, e.balance))?;
    bank::send_udn(cx, &Address::module(NOT_BONDED_POOL), &delegator, paid)?;
    cx.emit(events::complete_unbonding(&delegator, &operator, paid));
    Ok(())
}

fn release(cx: &mut Ctx<'_>, delegator: Address, from: Address, to: Address) -> Result<()> {
    let Some(entries) = REDELEGATIONS.get(cx, &(delegator, from, to))? else { return Ok(()) };
    let now = cx.time();
    let (mature, rest): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.completion <= now);
    if mature.is_empty() {
        return Ok(());
    }
    if rest.is_empty() {
        REDELEGATIONS.remove(cx, &(delegator, from, to))?;
        REDELEGATIONS_FROM.remove(cx, &(from, delegator, to))?;
        REDELEGATIONS_TO.remove(cx, &(delegator, to, from))?;
    } else {
        REDELEGATIONS.set(cx, &(delegator, from, to), &rest)?;
    }
    let moved = mature.iter().try_fold(0, |sum, e| amount::add(sum, e.initial))?;
    cx.emit(events::complete_redelegation(&delegator, &from, &to, moved));
    Ok(())
}

/// Slashes unbonding entries of a validator that were begun after `since`.
pub(super) fn slash_unbondings(
    cx: &mut Ctx<'_>,
    operator: &Address,
    since: u64,
    fraction: Dec,
) -> Result<Slashed> {
    let delegators: Vec<_> =
        UNBONDING_DELEGATORS.iter_from(cx, operator, Walk::FORWARD).collect::<Result<_>>()?;
    let mut slashed = Slashed { owed: 0, burned: 0 };
    for (_, delegator) in delegators {
        let pair = (delegator, *operator);
        let mut entries = UNBONDINGS.get(cx, &pair)?.unwrap_or_default();
        let now = cx.time();
        let mut changed = false;
        for entry in entries.iter_mut().filter(|e| e.height > since && e.completion > now) {
            let owed = fraction.of(entry.initial)?;
            let burned = owed.min(entry.balance);
            entry.balance = amount::sub(entry.balance, burned)?;
            slashed.owed = amount::add(slashed.owed, owed)?;
            slashed.burned = amount::add(slashed.burned, burned)?;
            changed |= burned > 0;
        }
        if changed {
            UNBONDINGS.set(cx, &pair, &entries)?;
        }
    }
    bank::burn_udn(cx, &Address::module(NOT_BONDED_POOL), slashed.burned)?;
    Ok(slashed)
}

/// Slashes redelegations away from a validator that were begun after `since`, where their stake is now: in
/// unbonding entries with the new validator, or else in the delegation to it.
pub(super) fn slash_redelegations(
    cx: &mut Ctx<'_>,
    operator: &Address,
    since: u64,
    fraction: Dec,
) -> Result<Slashed> {
    let triples: Vec<_> = REDELEGATIONS_FROM.iter_from(cx, operator, Walk::FORWARD).collect::<Result<_>>()?;
    let mut slashed = Slashed { owed: 0, burned: 0 };
    for (from, delegator, to) in triples {
        let entries = REDELEGATIONS.get(cx, &(delegator, from, to))?.unwrap_or_default();
        let now = cx.time();
        for entry in entries.iter().filter(|e| e.height > since && e.completion > now) {
            let owed = fraction.of(entry.initial)?;
            slashed.owed = amount::add(slashed.owed, owed)?;
            let unbonding = slash_moved_unbondings(cx, (delegator, to), entry.height, owed)?;
            // Of its shares what the unbonding entries did not pay.
            let rest = owed.saturating_sub(unbonding);
            let delegated = if rest > 0 {
                let shares = fraction.checked_mul(entry.shares)?.mul_div(rest, owed)?;
                slash_moved_delegation(cx, &delegator, &to, shares)?
            } else {
                0
            };
            slashed.burned = amount::add(slashed.burned, amount::add(unbonding, delegated)?)?;
        }
    }
    Ok(slashed)
}

/// Burns up to `owed` of what a delegator unbonds from a validator since `since`; how much it was.
fn slash_moved_unbondings(
    cx: &mut Ctx<'_>,
    pair: (Address, Address),
    since: u64,
    owed: u128,
) -> Result<u128> {
    let Some(mut entries) = UNBONDINGS.get(cx, &pair)? else { return Ok(0) };
    let now = cx.time();
    let mut burned = 0u128;
    for entry in entries.iter_mut().filter(|e| e.height >= since && e.completion > now) {
        let part = owed.saturating_sub(burned).min(entry.balance);
        entry.balance = amount::sub(entry.balance, part)?;
        burned = amount::add(burned, part)?;
    }
    if burned > 0 {
        UNBONDINGS.set(cx, &pair, &entries)?;
        bank::burn_udn(cx, &Address::module(NOT_BONDED_POOL), burned)?;
    }
    Ok(burned)
}

/// Burns what up to `shares` of a delegation are worth; how many udn it was.
fn slash_moved_delegation(
    cx: &mut Ctx<'_>,
    delegator: &Address,
    operator: &Address,
    shares: Dec,
) -> Result<u128> {
    let Some(held) = delegations::delegation(cx, delegator, operator)? else { return Ok(0) };
    let shares = shares.min(held);
    if shares.is_zero() {
        return Ok(0);
    }
    let pool = validators::known(cx, operator)?.pool();
    let burned = delegations::debit(cx, delegator, operator, shares)?;
    bank::burn_udn(cx, &pool, burned)?;
    Ok(burned)
}
