//! Events, in the words of the Cosmos SDK where it has them.

use deepnode_core::{Address, Coin, Dec, Event, Time};

pub(super) fn create_validator(operator: &Address, amount: u128) -> Event {
    Event::new("create_validator").with("validator", operator.to_operator()).with("amount", Coin::udn(amount))
}

pub(super) fn edit_validator(commission_rate: Dec, min_self_delegation: u128) -> Event {
    Event::new("edit_validator")
        .with("commission_rate", commission_rate)
        .with("min_self_delegation", min_self_delegation)
}

pub(super) fn delegate(delegator: &Address, operator: &Address, amount: u128, shares: Dec) -> Event {
    Event::new("delegate")
        .with("validator", operator.to_operator())
        .with("delegator", delegator)
        .with("amount", Coin::udn(amount))
        .with("new_shares", shares)
}

pub(super) fn unbond(delegator: &Address, operator: &Address, amount: u128, completion: Time) -> Event {
    Event::new("unbond")
        .with("validator", operator.to_operator())
        .with("delegator", delegator)
        .with("amount", Coin::udn(amount))
        .with("completion_time", completion.to_proto())
}

pub(super) fn redelegate(from: &Address, to: &Address, amount: u128, completion: Time) -> Event {
    Event::new("redelegate")
        .with("source_validator", from.to_operator())
        .with("destination_validator", to.to_operator())
        .with("amount", Coin::udn(amount))
        .with("completion_time", completion.to_proto())
}

pub(super) fn cancel_unbonding(delegator: &Address, operator: &Address, amount: u128, height: u64) -> Event {
    Event::new("cancel_unbonding_delegation")
        .with("amount", Coin::udn(amount))
        .with("validator", operator.to_operator())
        .with("delegator", delegator)
        .with("creation_height", height)
}

pub(super) fn complete_unbonding(delegator: &Address, operator: &Address, amount: u128) -> Event {
    Event::new("complete_unbonding")
        .with("amount", Coin::udn(amount))
        .with("validator", operator.to_operator())
        .with("delegator", delegator)
}

pub(super) fn complete_redelegation(
    delegator: &Address,
    from: &Address,
    to: &Address,
    amount: u128,
) -> Event {
    Event::new("complete_redelegation")
        .with("amount", Coin::udn(amount))
        .with("delegator", delegator)
        .with("source_validator", from.to_operator())
        .with("destination_validator", to.to_operator())
}

/// `power` is the one that the faulty block was signed with; the amount does not follow from it.
pub(super) fn slash(consensus: &Address, power: u64, height: u64, fraction: Dec, burned: u128) -> Event {
    Event::new("slash")
        .with("address", consensus.to_consensus())
        .with("power", power)
        .with("infraction_height", height)
        .with("fraction", fraction)
        .with("burned_coins", Coin::udn(burned))
}

pub(super) fn double_sign(consensus: &Address, kind: &str, height: u64, tombstoned: bool) -> Event {
    Event::new("double_sign")
        .with("address", consensus.to_consensus())
        .with("reason", kind)
        .with("infraction_height", height)
        .with("tombstoned", tombstoned)
}

/// Removing it would have left CometBFT without a validator.
pub(super) fn last_validator_kept(operator: &Address) -> Event {
    Event::new("last_validator_kept").with("validator", operator.to_operator())
}
