//! What holds after every message and block. Walks everything: genesis, tests and tools only.

use std::collections::BTreeMap;
use std::fmt::Display;

use deepnode_core::{Address, Dec, Error, KvRead, Result, Walk};

use super::liability;
use super::state::*;
use crate::bank;

pub(super) fn check(kv: &(impl KvRead + ?Sized)) -> Result<()> {
    let mut shares: BTreeMap<Address, Dec> = BTreeMap::new();
    for entry in DELEGATIONS.iter(kv, Walk::FORWARD) {
        let ((delegator, operator), part) = entry?;
        let sum = shares.entry(operator).or_default();
        *sum = sum.checked_add(part)?;
        holds(!part.is_zero(), || format!("delegation of {delegator} to {operator} is 0"))?;
        holds(DELEGATORS.has(kv, &(operator, delegator))?, || format!("delegator {delegator} has no index"))?;
    }
    equal(
        "delegators",
        DELEGATORS.iter(kv, Walk::FORWARD).count(),
        DELEGATIONS.iter(kv, Walk::FORWARD).count(),
    )?;

    let (mut bonded, mut not_bonded, mut ranked, mut members) = (0u128, 0u128, 0usize, 0usize);
    for entry in VALIDATORS.iter(kv, Walk::FORWARD) {
        let (operator, v) = entry?;
        let expected = shares.remove(&operator).unwrap_or_default();
        equal(format!("shares of {operator}"), v.shares, expected)?;
        let pool = if v.is_bonded() { &mut bonded } else { &mut not_bonded };
        *pool = pool.saturating_add(v.tokens);
        equal("operator by key", BY_CONSENSUS.get(kv, &v.consensus())?, Some(operator))?;
        equal(format!("{operator} in the bonded set"), BONDED.has(kv, &operator)?, v.is_bonded())?;
        members = members.saturating_add(usize::from(v.is_bonded()));
        if let Some(rank) = v.rank() {
            ranked = ranked.saturating_add(1);
            holds(RANKS.has(kv, &(rank, operator))?, || format!("{operator} is not ranked"))?;
        }
        if v.status == Status::Unbonding {
            let queued = VALIDATOR_QUEUE.has(kv, &(v.unbonding_time, operator))?;
            holds(queued, || format!("unbonding validator {operator} is not queued"))?;
        }
        let power = liability::power(kv, &operator)?;
        holds(power == 0 || (v.is_bonded() && !v.jailed), || format!("{operator} has power {power}"))?;
    }
    holds(shares.is_empty(), || format!("delegations to unknown validators: {:?}", shares.keys()))?;
    equal("ranks", RANKS.iter(kv, Walk::FORWARD).count(), ranked)?;
    equal("bonded set", BONDED.iter(kv, Walk::FORWARD).count(), members)?;

    for entry in UNBONDINGS.iter(kv, Walk::FORWARD) {
        let ((delegator, operator), entries) = entry?;
        let indexed = UNBONDING_DELEGATORS.has(kv, &(operator, delegator))?;
        holds(indexed && !entries.is_empty(), || format!("unbonding of {delegator} has no index"))?;
        for e in entries {
            not_bonded = not_bonded.saturating_add(e.balance);
            let queued = UNBONDING_QUEUE.has(kv, &(e.completion, delegator, operator))?;
            holds(queued, || format!("unbonding entry of {delegator} is not queued"))?;
        }
    }
    for entry in REDELEGATIONS.iter(kv, Walk::FORWARD) {
        let ((delegator, from, to), entries) = entry?;
        let indexed = REDELEGATIONS_FROM.has(kv, &(from, delegator, to))?
            && REDELEGATIONS_TO.has(kv, &(delegator, to, from))?;
        holds(indexed && !entries.is_empty(), || format!("redelegation of {delegator} has no index"))?;
    }
    equal("bonded pool", bank::balance_udn(kv, &Address::module(BONDED_POOL))?, bonded)?;
    equal("not bonded pool", bank::balance_udn(kv, &Address::module(NOT_BONDED_POOL))?, not_bonded)?;
    let powers = liability::powers(kv)?.iter().fold(0u64, |sum, (_, p)| sum.saturating_add(*p));
    equal("total power", liability::total_power(kv)?, powers)
}

fn holds(condition: bool, broken: impl FnOnce() -> String) -> Result<()> {
    if condition {
        return Ok(());
    }
    Err(Error::fault(format!("staking: {}", broken())))
}

fn equal<T: PartialEq + std::fmt::Debug>(what: impl Display, got: T, expected: T) -> Result<()> {
    holds(got == expected, || format!("{what}: {got:?} instead of {expected:?}"))
}
