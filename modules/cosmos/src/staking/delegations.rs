//! Delegations: shares of a validator's tokens.

use deepnode_core::num::amount;
use deepnode_core::{errors, Address, Ctx, Dec, KvRead, Result, Walk};

use super::state::*;
use super::validators::{self, required};
use super::{errors as refusals, leaving};
use crate::bank;

/// Shares of `delegator` in the validator of `operator`.
pub fn delegation(
    kv: &(impl KvRead + ?Sized),
    delegator: &Address,
    operator: &Address,
) -> Result<Option<Dec>> {
    DELEGATIONS.get(kv, &(*delegator, *operator))
}

/// All delegations of `delegator`: (operator, shares), by operator. Callers bound what they take.
pub fn delegations<'a>(
    kv: &'a (impl KvRead + ?Sized),
    delegator: &Address,
) -> impl Iterator<Item = Result<(Address, Dec)>> + 'a {
    DELEGATIONS.iter_from(kv, delegator, Walk::FORWARD).map(|entry| {
        let ((_, operator), shares) = entry?;
        Ok((operator, shares))
    })
}

/// Delegates `amount` udn of the delegator's balance; the shares that they bought.
pub fn delegate(cx: &mut Ctx<'_>, delegator: &Address, operator: &Address, amount: u128) -> Result<Dec> {
    let pool = required(cx, operator)?.pool();
    bank::send_udn(cx, delegator, &pool, amount)?;
    credit(cx, delegator, operator, amount)
}

/// Adds `amount` udn, which the validator's pool already holds, to a delegation; the shares that they bought.
pub(super) fn credit(cx: &mut Ctx<'_>, delegator: &Address, operator: &Address, amount: u128) -> Result<Dec> {
    // Stake that a full slash left without worth would take over what is added now.
    let bought = required(cx, operator)?.shares_from_tokens(amount)?;
    for hook in cx.hooks() {
        hook.before_delegation_modified(cx, delegator, operator)?;
    }
    validators::update(cx, operator, |v| {
        v.tokens = amount::add(v.tokens, amount)?;
        v.shares = v.shares.checked_add(bought)?;
        Ok(())
    })?;
    let before = delegation(cx, delegator, operator)?;
    if before.is_none() {
        DELEGATORS.insert(cx, &(*operator, *delegator))?;
    }
    let shares = before.unwrap_or_default().checked_add(bought)?;
    DELEGATIONS.set(cx, &(*delegator, *operator), &shares)?;
    for hook in cx.hooks() {
        hook.after_delegation_modified(cx, delegator, operator)?;
    }
    Ok(bought)
}

/// Takes `shares` out of a delegation; the udn that they were worth, which stay in the pool of the validator.
/// A validator that is unbonded and has no delegation left is removed.
pub(super) fn debit(cx: &mut Ctx<'_>, delegator: &Address, operator: &Address, shares: Dec) -> Result<u128> {
    let held = delegation(cx, delegator, operator)?.ok_or_else(refusals::no_delegation_of)?;
    if held < shares {
        return Err(refusals::not_enough_shares());
    }
    for hook in cx.hooks() {
        hook.before_delegation_modified(cx, delegator, operator)?;
    }
    let kept = held.checked_sub(shares)?;
    if kept.is_zero() {
        DELEGATIONS.remove(cx, &(*delegator, *operator))?;
        DELEGATORS.remove(cx, &(*operator, *delegator))?;
    } else {
        DELEGATIONS.set(cx, &(*delegator, *operator), &kept)?;
    }
    let validator = required(cx, operator)?;
    if delegator == operator && validator.tokens_from_shares(kept)? < validator.min_self_delegation {
        validators::jail(cx, operator)?;
    }
    let mut taken = 0;
    let after = validators::update(cx, operator, |v| {
        // The last to go takes what rounding left.
        taken = if v.shares == shares { v.tokens } else { v.tokens_from_shares(shares)? };
        v.shares = v.shares.checked_sub(shares)?;
        v.tokens = amount::sub(v.tokens, taken)?;
        Ok(())
    })?;
    for hook in cx.hooks() {
        hook.after_delegation_modified(cx, delegator, operator)?;
    }
    if after.status == Status::Unbonded && after.shares.is_zero() {
        validators::remove(cx, operator)?;
    }
    Ok(taken)
}

/// Shares that `amount` udn of a delegation are, refused if it is worth less. What would stay and be worth
/// nothing goes too.
pub(super) fn shares_worth(
    cx: &Ctx<'_>,
    delegator: &Address,
    operator: &Address,
    amount: u128,
) -> Result<Dec> {
    let validator = required(cx, operator)?;
    let held = delegation(cx, delegator, operator)?.ok_or_else(refusals::no_delegation)?;
    let shares = validator.shares_from_tokens(amount)?;
    if shares > held {
        return Err(errors::invalid_request("invalid shares amount"));
    }
    let kept = held.checked_sub(shares)?;
    Ok(if validator.tokens_from_shares(kept)? == 0 { held } else { shares })
}

/// Moves `amount` udn between the pools if a validator's stake goes to one of another status.
pub(super) fn move_between(cx: &mut Ctx<'_>, from: &Validator, to: Address, amount: u128) -> Result<()> {
    if from.pool() != to {
        bank::send_udn(cx, &from.pool(), &to, amount)?;
    }
    Ok(())
}

/// Begins to undelegate `amount` udn: when they arrive, and how many they are after rounding.
pub fn undelegate(
    cx: &mut Ctx<'_>,
    delegator: &Address,
    operator: &Address,
    amount: u128,
) -> Result<(deepnode_core::Time, u128)> {
    let validator = required(cx, operator)?;
    let shares = shares_worth(cx, delegator, operator, amount)?;
    leaving::check_unbonding_room(cx, delegator, operator)?;
    let returned = debit(cx, delegator, operator, shares)?;
    if returned == 0 {
        return Err(errors::invalid_request(format!("amount {amount} is worth less than 1 udn")));
    }
    move_between(cx, &validator, Address::module(NOT_BONDED_POOL), returned)?;
    let completion = leaving::begin_unbonding(cx, delegator, operator, returned)?;
    Ok((completion, returned))
}

/// Moves `amount` udn of a delegation to another validator: when it stops to answer for the first, and how many
/// udn moved after rounding. From an unbonded validator it is free at once.
pub fn redelegate(
    cx: &mut Ctx<'_>,
    delegator: &Address,
    from: &Address,
    to: &Address,
    amount: u128,
) -> Result<(deepnode_core::Time, u128)> {
    if from == to {
        return Err(refusals::self_redelegation());
    }
    let target = validators::validator(cx, to)?.ok_or_else(refusals::redelegation_target)?;
    let source = required(cx, from)?;
    let shares = shares_worth(cx, delegator, from, amount)?;
    leaving::check_redelegation_room(cx, delegator, from, to)?;
    let returned = debit(cx, delegator, from, shares)?;
    if returned == 0 {
        return Err(refusals::tiny_redelegation());
    }
    move_between(cx, &source, target.pool(), returned)?;
    let bought = credit(cx, delegator, to, returned)?;
    let completion = leaving::begin_redelegation(cx, delegator, from, &source, to, returned, bought)?;
    Ok((completion, returned))
}
