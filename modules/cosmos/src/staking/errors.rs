//! Refusals of the codespace `staking`, with the codes and words of the Cosmos SDK.

use deepnode_core::{errors, Error};

macro_rules! refusals {
    ($($name:ident = $code:literal, $text:literal;)*) => {$(
        pub(super) fn $name() -> Error {
            errors::tx("staking", $code, $text)
        }
    )*};
}

refusals! {
    no_validator = 3, "validator does not exist";
    operator_exists = 4, "validator already exist for this operator address; must use new validator operator address";
    key_exists = 5, "validator already exist for this pubkey; must use new validator pubkey";
    validator_jailed = 7, "validator for this address is currently jailed";
    commission_huge = 10, "commission cannot be more than 100%";
    commission_above_max = 11, "commission cannot be more than the max rate";
    commission_too_soon = 12, "commission cannot be changed more than once in 24h";
    change_rate_above_max = 14, "commission change rate cannot be more than the max rate";
    commission_change = 15, "commission cannot be changed more than max change rate";
    self_delegation = 16, "validator's self delegation must be greater than their minimum self delegation";
    min_self_delegation_decreased = 17, "minimum self delegation cannot be decrease";
    no_delegation = 19, "no delegation for (address, validator) tuple";
    no_delegation_of = 21, "delegator does not contain delegation";
    not_enough_shares = 24, "not enough delegation shares";
    no_unbonding = 26, "no unbonding delegation found";
    too_many_unbondings = 27, "too many unbonding delegation entries for (delegator, validator) tuple";
    self_redelegation = 29, "cannot redelegate to the same validator";
    tiny_redelegation = 30, "too few tokens to redelegate (truncates to zero tokens)";
    redelegation_target = 31, "redelegation destination validator not found";
    transitive_redelegation = 32, "redelegation to this validator already in progress; first redelegation to this validator must complete before next redelegation";
    too_many_redelegations = 33, "too many redelegation entries for (delegator, src-validator, dst-validator) tuple";
    exchange_rate = 34, "cannot delegate to validators with invalid (zero) ex-rate";
    commission_below_min = 40, "commission cannot be less than min rate";
}

/// Code 6: a consensus key that CometBFT could not use.
pub(super) fn key_type(got: &str) -> Error {
    let got: String = got.chars().take(100).collect();
    errors::tx(
        "staking",
        6,
        format!("got: {got:?}, expected: /cosmos.crypto.ed25519.PubKey of 32 bytes: validator pubkey type is not supported"),
    )
}
