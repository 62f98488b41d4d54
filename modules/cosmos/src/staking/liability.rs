//! Powers, the stake that stood behind them, and slashing.
//!
//! A fault is slashed by the stake that its power was given for, never by the power itself: PoWR gives power for
//! compute, and CometBFT's powers say nothing about tokens.

use deepnode_core::num::amount;
use deepnode_core::{errors, Address, Ctx, Dec, Error, KvRead, Result, Time, Walk};

use super::state::*;
use super::{events, leaving, params, validators};
use crate::bank;

/// A power set in block h signs from block h + 2 on.
const POWER_DELAY: u64 = 2;

/// The power of `operator`, as last set.
pub fn power(kv: &(impl KvRead + ?Sized), operator: &Address) -> Result<u64> {
    Ok(POWERS.get(kv, operator)?.unwrap_or(0))
}

/// The sum of all powers.
pub fn total_power(kv: &(impl KvRead + ?Sized)) -> Result<u64> {
    Ok(TOTAL_POWER.get(kv)?.unwrap_or(0))
}

/// All powers above 0, by operator; at most one a bonded validator.
pub fn powers(kv: &(impl KvRead + ?Sized)) -> Result<Vec<(Address, u64)>> {
    POWERS.iter(kv, Walk::FORWARD).collect()
}

/// Sets the power of `operator`, and records its tokens as what answers for that power from the block after next
/// on. Setting the power that it has records the tokens again. A fault if it is above 0 for who is jailed or not in
/// the bonded set. Staking itself sets 0, when a validator is jailed
/// or leaves the bonded set.
pub fn set_power(cx: &mut Ctx<'_>, operator: &Address, power: u64) -> Result<()> {
    let before = self::power(cx, operator)?;
    if power == 0 && before == 0 {
        return Ok(());
    }
    let validator = validators::known(cx, operator)?;
    if power > 0 && (!validator.is_bonded() || validator.jailed) {
        return Err(Error::fault(format!("staking: power {power} for {operator}, which is not in the set")));
    }
    let total = total_power(cx)?
        .checked_sub(before)
        .and_then(|rest| rest.checked_add(power))
        .ok_or_else(|| Error::fault(format!("staking: total power with {operator} at {power} overflows")))?;
    TOTAL_POWER.set(cx, &total)?;
    if power == 0 {
        POWERS.remove(cx, operator)?;
    } else {
        POWERS.set(cx, operator, &power)?;
    }
    // Powers of genesis sign the first blocks too, for which no height is early enough.
    let height = if STARTED.get(cx)?.unwrap_or(false) { cx.height() } else { 0 };
    LIABILITIES.set(
        cx,
        &(*operator, height),
        &Liability { tokens: validator.tokens, power, time: cx.time() },
    )?;
    prune(cx, operator)
}

/// Deletes the oldest records that no evidence can reach any more: those before one that is too old for any and has
/// a successor. One set adds a record, and may delete two.
fn prune(cx: &mut Ctx<'_>, operator: &Address) -> Result<()> {
    let oldest: Vec<_> = LIABILITIES.iter_from(cx, operator, Walk::FORWARD).take(4).collect::<Result<_>>()?;
    for three in oldest.windows(3) {
        // The first signs up to one block after the second was set; the third is later than that.
        if let [(first, _), _, (_, third)] = three {
            if expired(cx, third.time)? {
                LIABILITIES.remove(cx, first)?;
            }
        }
    }
    Ok(())
}

/// Whether a fault at `time` is too old to be slashed: the stake that answered for it has left. CometBFT forgets
/// evidence sooner, as `unbonding_time` is at least its greatest age.
pub(super) fn expired(cx: &Ctx<'_>, time: Time) -> Result<bool> {
    Ok(cx.time() > time.plus_secs(params(cx)?.unbonding_time))
}

/// What answers for a fault in block `height`: the record, and the height at which it was made.
pub fn backing(
    kv: &(impl KvRead + ?Sized),
    operator: &Address,
    height: u64,
) -> Result<Option<(u64, Liability)>> {
    let latest = height.saturating_sub(POWER_DELAY);
    let end = LIABILITIES.raw_key(&(*operator, latest.saturating_add(1)));
    let walk = Walk { after: Some(&end), reverse: true };
    let record = LIABILITIES.iter_from(kv, operator, walk).next().transpose()?;
    Ok(record.map(|((_, set), liability)| (set, liability)))
}

/// Slashes `fraction` of the stake that answers for a fault in block `height`; the udn that were burned.
///
/// Stake that began to leave after that stake was recorded pays `fraction` of its initial amount first; the
/// validator's tokens pay the rest, at most all. Nothing is taken of an unknown or unbonded validator, nor of one
/// without power in that block.
pub fn slash(cx: &mut Ctx<'_>, operator: &Address, height: u64, fraction: Dec) -> Result<u128> {
    if fraction > Dec::ONE {
        return Err(errors::invalid_request(format!("slash fraction is {fraction}, allowed are 0 to 1")));
    }
    let Some(validator) = validators::validator(cx, operator)? else { return Ok(0) };
    if validator.status == Status::Unbonded {
        return Ok(0);
    }
    let Some((since, liability)) = backing(cx, operator, height)?.filter(|(_, l)| l.power > 0) else {
        return Ok(0);
    };
    let owed = fraction.of(liability.tokens)?;
    let unbonding = leaving::slash_unbondings(cx, operator, since, fraction)?;
    let redelegated = leaving::slash_redelegations(cx, operator, since, fraction)?;
    let paid = amount::add(unbonding.owed, redelegated.owed)?;
    let burned = take(cx, operator, owed.saturating_sub(paid))?;
    let total = amount::add(amount::add(unbonding.burned, redelegated.burned)?, burned)?;
    cx.emit(events::slash(&validator.consensus(), liability.power, height, fraction, total));
    Ok(total)
}

/// Burns up to `owed` of a validator's tokens; how much it was.
fn take(cx: &mut Ctx<'_>, operator: &Address, owed: u128) -> Result<u128> {
    let validator = validators::known(cx, operator)?;
    let burned = owed.min(validator.tokens);
    if burned == 0 {
        return Ok(0);
    }
    let effective = Dec::from_int(burned)?.checked_div_ceil(Dec::from_int(validator.tokens)?)?;
    for hook in cx.hooks() {
        hook.before_validator_slashed(cx, operator, effective.min(Dec::ONE))?;
    }
    let after = validators::update(cx, operator, |v| {
        v.tokens = amount::sub(v.tokens, burned)?;
        Ok(())
    })?;
    bank::burn_udn(cx, &after.pool(), burned)?;
    Ok(burned)
}
