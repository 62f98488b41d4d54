//! Validators: reading, creating, jailing, and the bonded set.

use std::collections::BTreeSet;

use deepnode_core::{Address, Ctx, Dec, Error, KvRead, Result, Time, Walk};

use super::state::*;
use super::{delegations, errors, events, leaving, liability, params};
use crate::bank;

/// Validators whose unbonding completes in one block; the rest follow in the next ones.
const UNBONDED_A_BLOCK: usize = 100;
/// Liability records that the removal of a validator deletes. No more are kept but of one that left and
/// re-entered the set hundreds of times; what stays of those is never read again.
const LIABILITIES_REMOVED: usize = 1_000;

/// The validator of `operator`.
pub fn validator(kv: &(impl KvRead + ?Sized), operator: &Address) -> Result<Option<Validator>> {
    VALIDATORS.get(kv, operator)
}

/// What the operator says about itself; empty for an unknown one.
pub fn description(kv: &(impl KvRead + ?Sized), operator: &Address) -> Result<Description> {
    Ok(DESCRIPTIONS.get(kv, operator)?.unwrap_or_default())
}

/// The operator whose validator signs as `consensus`.
pub fn operator_of(kv: &(impl KvRead + ?Sized), consensus: &Address) -> Result<Option<Address>> {
    BY_CONSENSUS.get(kv, consensus)
}

/// The bonded set with its tokens, by operator. The last block's end decided who is in it; tokens are of now.
pub fn bonded(kv: &(impl KvRead + ?Sized)) -> Result<Vec<(Address, u128)>> {
    BONDED
        .iter(kv, Walk::FORWARD)
        .map(|operator| {
            let operator = operator?;
            Ok((operator, known(kv, &operator)?.tokens))
        })
        .collect()
}

/// Tokens of the bonded set.
pub fn bonded_tokens(kv: &(impl KvRead + ?Sized)) -> Result<u128> {
    bonded(kv)?.iter().try_fold(0u128, |sum, (_, tokens)| {
        sum.checked_add(*tokens).ok_or_else(|| Error::fault("bonded tokens exceed a u128"))
    })
}

/// Whether the key of `consensus` signed two blocks of a height.
pub fn tombstoned(kv: &(impl KvRead + ?Sized), consensus: &Address) -> Result<bool> {
    TOMBSTONES.has(kv, consensus)
}

/// A validator that an index names.
pub(super) fn known(kv: &(impl KvRead + ?Sized), operator: &Address) -> Result<Validator> {
    validator(kv, operator)?.ok_or_else(|| Error::fault(format!("staking: no validator {operator}")))
}

/// A validator that a message names.
pub(super) fn required(kv: &(impl KvRead + ?Sized), operator: &Address) -> Result<Validator> {
    validator(kv, operator)?.ok_or_else(errors::no_validator)
}

/// Changes a validator and its rank; the validator after it.
pub(super) fn update(
    cx: &mut Ctx<'_>,
    operator: &Address,
    change: impl FnOnce(&mut Validator) -> Result<()>,
) -> Result<Validator> {
    let mut validator = known(cx, operator)?;
    let before = validator.rank();
    change(&mut validator)?;
    if validator.rank() != before {
        if let Some(rank) = before {
            RANKS.remove(cx, &(rank, *operator))?;
        }
        if let Some(rank) = validator.rank() {
            RANKS.insert(cx, &(rank, *operator))?;
        }
    }
    VALIDATORS.set(cx, operator, &validator)?;
    Ok(validator)
}

/// Writes a validator that was not there, with its indices.
pub(super) fn insert(
    cx: &mut Ctx<'_>,
    operator: &Address,
    validator: &Validator,
    description: &Description,
) -> Result<()> {
    let consensus = validator.consensus();
    if VALIDATORS.has(cx, operator)? {
        return Err(errors::operator_exists());
    }
    if BY_CONSENSUS.has(cx, &consensus)? || TOMBSTONES.has(cx, &consensus)? {
        return Err(errors::key_exists());
    }
    VALIDATORS.set(cx, operator, validator)?;
    DESCRIPTIONS.set(cx, operator, description)?;
    BY_CONSENSUS.set(cx, &consensus, operator)?;
    if let Some(rank) = validator.rank() {
        RANKS.insert(cx, &(rank, *operator))?;
    }
    Ok(())
}

/// A new validator with the operator's own delegation of `amount` udn. It is bonded at the block's end, if it
/// ranks among the first.
pub fn create(
    cx: &mut Ctx<'_>,
    operator: &Address,
    consensus_key: [u8; 32],
    description: Description,
    commission: Commission,
    min_self_delegation: u128,
    amount: u128,
) -> Result<()> {
    if amount < min_self_delegation {
        return Err(errors::self_delegation());
    }
    let validator = Validator {
        consensus_key,
        status: Status::Unbonded,
        jailed: false,
        tokens: 0,
        shares: Dec::ZERO,
        commission,
        min_self_delegation,
        unbonding_height: 0,
        unbonding_time: Time(0),
    };
    insert(cx, operator, &validator, &description)?;
    for hook in cx.hooks() {
        hook.after_validator_created(cx, operator)?;
    }
    delegations::delegate(cx, operator, operator, amount)?;
    Ok(())
}

/// Forgets an unbonded validator without delegations.
pub(super) fn remove(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    let validator = known(cx, operator)?;
    if validator.status != Status::Unbonded || !validator.shares.is_zero() || validator.tokens > 0 {
        return Err(Error::fault(format!(
            "staking: {operator} cannot be removed with stake or while liable"
        )));
    }
    if let Some(rank) = validator.rank() {
        RANKS.remove(cx, &(rank, *operator))?;
    }
    let consensus = validator.consensus();
    BY_CONSENSUS.remove(cx, &consensus)?;
    DESCRIPTIONS.remove(cx, operator)?;
    VALIDATORS.remove(cx, operator)?;
    let records: Vec<_> = LIABILITIES
        .iter_from(cx, operator, Walk::FORWARD)
        .take(LIABILITIES_REMOVED)
        .collect::<Result<_>>()?;
    for (key, _) in records {
        LIABILITIES.remove(cx, &key)?;
    }
    for hook in cx.hooks() {
        hook.after_validator_removed(cx, operator, &consensus)?;
    }
    Ok(())
}

/// Takes a validator out of the ranking until [`unjail`]; its power is 0 at once and it leaves the bonded set at
/// the block's end. False if nothing changed: unknown, jailed already, or the last bonded one, without whom the
/// chain would stop (an event says so).
pub fn jail(cx: &mut Ctx<'_>, operator: &Address) -> Result<bool> {
    let Some(validator) = validator(cx, operator)?.filter(|v| !v.jailed) else { return Ok(false) };
    if validator.is_bonded() && !another_stays(cx, operator)? {
        cx.emit(events::last_validator_kept(operator));
        return Ok(false);
    }
    update(cx, operator, |v| {
        v.jailed = true;
        Ok(())
    })?;
    liability::set_power(cx, operator, 0)?;
    Ok(true)
}

/// Jails for ever, and bars the key from any other validator. False as for [`jail`], except that a jailed one
/// can still be tombstoned.
pub fn tombstone(cx: &mut Ctx<'_>, operator: &Address) -> Result<bool> {
    let Some(validator) = validator(cx, operator)? else { return Ok(false) };
    if !validator.jailed && !jail(cx, operator)? {
        return Ok(false);
    }
    TOMBSTONES.insert(cx, &validator.consensus())?;
    Ok(true)
}

/// Puts a jailed validator back into the ranking. Whether it may come back is for the caller to know, except that
/// a tombstoned one never may.
pub fn unjail(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    let validator = required(cx, operator)?;
    if tombstoned(cx, &validator.consensus())? {
        return Err(errors::validator_jailed());
    }
    update(cx, operator, |v| {
        v.jailed = false;
        Ok(())
    })?;
    Ok(())
}

/// Whether a bonded validator other than `operator` will be bonded after this block.
fn another_stays(cx: &Ctx<'_>, operator: &Address) -> Result<bool> {
    for other in BONDED.iter(cx, Walk::FORWARD) {
        let other = other?;
        let validator = known(cx, &other)?;
        if other != *operator && !validator.jailed && validator.tokens >= MIN_STAKE {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the bonded set what the ranking says: the first `max_validators` with at least [`MIN_STAKE`]. If that is
/// nobody, the largest one stays: CometBFT cannot go on without a validator.
pub(super) fn update_bonded_set(cx: &mut Ctx<'_>) -> Result<()> {
    let size = usize::try_from(params(cx)?.max_validators).unwrap_or(usize::MAX);
    let before: BTreeSet<Address> = BONDED.iter(cx, Walk::FORWARD).collect::<Result<_>>()?;
    let mut after: BTreeSet<Address> = RANKS
        .iter(cx, Walk::FORWARD)
        .take(size)
        .take_while(|entry| !matches!(entry, Ok((rank, _)) if !rank < MIN_STAKE))
        .map(|entry| Ok(entry?.1))
        .collect::<Result<_>>()?;
    if after.is_empty() && !before.is_empty() {
        let mut last = None;
        for operator in &before {
            let validator = known(cx, operator)?;
            let key = (validator.jailed, !validator.tokens, *operator);
            last = last.into_iter().chain([key]).min();
        }
        if let Some((_, _, operator)) = last {
            cx.emit(events::last_validator_kept(&operator));
            after.insert(operator);
        }
    }
    for operator in before.difference(&after) {
        begin_unbonding(cx, operator)?;
    }
    for operator in after.difference(&before) {
        bond(cx, operator)?;
    }
    Ok(())
}

fn bond(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    let before = known(cx, operator)?;
    if before.status == Status::Unbonding {
        VALIDATOR_QUEUE.remove(cx, &(before.unbonding_time, *operator))?;
    }
    let after = set_status(cx, operator, Status::Bonded)?;
    BONDED.insert(cx, operator)?;
    for hook in cx.hooks() {
        hook.after_validator_bonded(cx, operator, &after.consensus())?;
    }
    Ok(())
}

fn begin_unbonding(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    let (height, completion) = (cx.height(), cx.time().plus_secs(params(cx)?.unbonding_time));
    set_status(cx, operator, Status::Unbonding)?;
    let after = update(cx, operator, |v| {
        v.unbonding_height = height;
        v.unbonding_time = completion;
        Ok(())
    })?;
    BONDED.remove(cx, operator)?;
    VALIDATOR_QUEUE.insert(cx, &(completion, *operator))?;
    liability::set_power(cx, operator, 0)?;
    for hook in cx.hooks() {
        hook.after_validator_begin_unbonding(cx, operator, &after.consensus())?;
    }
    Ok(())
}

/// Changes the status, and moves the tokens if that changes their pool.
fn set_status(cx: &mut Ctx<'_>, operator: &Address, status: Status) -> Result<Validator> {
    let from = known(cx, operator)?.pool();
    let after = update(cx, operator, |v| {
        v.status = status;
        Ok(())
    })?;
    let to = after.pool();
    if from != to {
        bank::send_udn(cx, &from, &to, after.tokens)?;
    }
    Ok(after)
}

/// Completes the unbonding of validators whose time has come, a bounded number.
pub(super) fn complete_unbonding(cx: &mut Ctx<'_>) -> Result<()> {
    let due: Vec<_> = VALIDATOR_QUEUE
        .iter_below(cx, &leaving::next_instant(cx.time()))
        .take(UNBONDED_A_BLOCK)
        .collect::<Result<_>>()?;
    for (time, operator) in due {
        VALIDATOR_QUEUE.remove(cx, &(time, operator))?;
        if set_status(cx, &operator, Status::Unbonded)?.shares.is_zero() {
            remove(cx, &operator)?;
        }
    }
    Ok(())
}
