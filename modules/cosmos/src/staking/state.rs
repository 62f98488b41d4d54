//! What staking keeps, all of it in the store `staking`.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::num::amount;
use deepnode_core::{Address, Dec, Item, Map, Result, Set, Time};
use serde::{Deserialize, Serialize};

use super::errors;
use super::params::Params;

pub(super) const STORE: &str = "staking";

/// Tokens of bonded validators.
pub const BONDED_POOL: &str = "bonded_tokens_pool";
/// Tokens of all other validators and of unbonding entries.
pub const NOT_BONDED_POOL: &str = "not_bonded_tokens_pool";

/// Least stake of a bonded validator: 1 DN, in udn.
pub const MIN_STAKE: u128 = 1_000_000;

pub(super) const PARAMS: Item<Params> = Item::new(STORE, 0x01);
/// Set by the first block: before it, powers are those of genesis.
pub(super) const STARTED: Item<bool> = Item::new(STORE, 0x02);
/// Longest time, seconds, until all powers are set anew: pushed here by who sets them.
pub(super) const POWER_PERIOD: Item<u64> = Item::new(STORE, 0x03);

/// By operator.
pub(super) const VALIDATORS: Map<Address, Validator> = Map::new(STORE, 0x21);
/// By operator. Apart from the validator, which every delegation rewrites.
pub(super) const DESCRIPTIONS: Map<Address, Description> = Map::new(STORE, 0x22);
/// Operator by consensus address.
pub(super) const BY_CONSENSUS: Map<Address, Address> = Map::new(STORE, 0x23);
/// Validators that are not jailed, most tokens first ([`Validator::rank`]), then by address.
pub(super) const RANKS: Set<(u128, Address)> = Set::new(STORE, 0x24);
/// Operators of the bonded set, as the last block's end left it.
pub(super) const BONDED: Set<Address> = Set::new(STORE, 0x25);
/// Unbonding validators by the time at which they are unbonded.
pub(super) const VALIDATOR_QUEUE: Set<(Time, Address)> = Set::new(STORE, 0x26);
/// Consensus addresses whose key signed two blocks of a height: never a validator's again.
pub(super) const TOMBSTONES: Set<Address> = Set::new(STORE, 0x27);

/// Shares by (delegator, operator).
pub(super) const DELEGATIONS: Map<(Address, Address), Dec> = Map::new(STORE, 0x31);
/// (operator, delegator) of every delegation.
pub(super) const DELEGATORS: Set<(Address, Address)> = Set::new(STORE, 0x32);

/// Entries by (delegator, operator); never an empty list.
pub(super) const UNBONDINGS: Map<(Address, Address), Vec<UnbondingEntry>> = Map::new(STORE, 0x41);
/// (operator, delegator) of every list of unbonding entries.
pub(super) const UNBONDING_DELEGATORS: Set<(Address, Address)> = Set::new(STORE, 0x42);
/// (completion, delegator, operator).
pub(super) const UNBONDING_QUEUE: Set<(Time, Address, Address)> = Set::new(STORE, 0x43);

/// Entries by (delegator, from, to); never an empty list.
pub(super) const REDELEGATIONS: Map<(Address, Address, Address), Vec<RedelegationEntry>> =
    Map::new(STORE, 0x51);
/// (from, delegator, to) of every list of redelegations.
pub(super) const REDELEGATIONS_FROM: Set<(Address, Address, Address)> = Set::new(STORE, 0x52);
/// (delegator, to, from) of every list of redelegations.
pub(super) const REDELEGATIONS_TO: Set<(Address, Address, Address)> = Set::new(STORE, 0x53);
/// (completion, delegator, from, to).
pub(super) const REDELEGATION_QUEUE: Set<(Time, Address, Address, Address)> = Set::new(STORE, 0x54);

/// Voting power by operator, as last set; none is 0.
pub(super) const POWERS: Map<Address, u64> = Map::new(STORE, 0x61);
pub(super) const TOTAL_POWER: Item<u64> = Item::new(STORE, 0x62);
/// What stood behind a power, by (operator, height at which it was set).
pub(super) const LIABILITIES: Map<(Address, u64), Liability> = Map::new(STORE, 0x63);

/// Where a validator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Status {
    /// Not in the set, and no longer liable.
    Unbonded,
    /// Left the set less than an unbonding time ago.
    Unbonding,
    /// In the set.
    Bonded,
}

/// A validator. Its operator's account address is its key.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Validator {
    /// ed25519.
    pub consensus_key: [u8; 32],
    pub status: Status,
    pub jailed: bool,
    /// udn that all delegations together are worth: the stake.
    pub tokens: u128,
    /// Sum of all delegations.
    pub shares: Dec,
    pub commission: Commission,
    /// udn; the operator's own delegation falls below it: jailed.
    pub min_self_delegation: u128,
    /// When it last left the set; 0 before.
    pub unbonding_height: u64,
    /// When its unbonding completes; 0 before it ever left the set.
    pub unbonding_time: Time,
}

/// What an operator keeps of its delegators' rewards.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Commission {
    pub rate: Dec,
    pub max_rate: Dec,
    /// Greatest change a day.
    pub max_change_rate: Dec,
    /// When the rate last changed.
    pub updated: Time,
}

/// What an operator says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Description {
    pub moniker: String,
    pub identity: String,
    pub website: String,
    pub security_contact: String,
    pub details: String,
}

/// Tokens on their way from a validator to their owner.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct UnbondingEntry {
    /// Height at which they left the validator.
    pub height: u64,
    pub completion: Time,
    /// udn that left.
    pub initial: u128,
    /// udn that will arrive: what left, less slashes.
    pub balance: u128,
}

/// Stake that moved from a validator to another and still answers for the first.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RedelegationEntry {
    /// Height at which it left the validator.
    pub height: u64,
    pub completion: Time,
    /// udn that moved.
    pub initial: u128,
    /// Shares of the new validator that it became.
    pub shares: Dec,
}

/// What a validator had at stake when its power was set.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Liability {
    /// udn.
    pub tokens: u128,
    pub power: u64,
    pub time: Time,
}

impl Validator {
    /// The address that CometBFT knows it by.
    pub fn consensus(&self) -> Address {
        Address::from_ed25519(&self.consensus_key)
    }

    /// Whether it is in the bonded set.
    pub fn is_bonded(&self) -> bool {
        self.status == Status::Bonded
    }

    /// The account that holds its tokens.
    pub fn pool(&self) -> Address {
        Address::module(if self.is_bonded() { BONDED_POOL } else { NOT_BONDED_POOL })
    }

    /// udn that `shares` are worth: floor(shares * tokens / all shares); 0 if it has no shares.
    pub fn tokens_from_shares(&self, shares: Dec) -> Result<u128> {
        if self.shares.is_zero() {
            return Ok(0);
        }
        Ok(amount::mul_div(shares.atomics(), self.tokens, self.shares.atomics())?)
    }

    /// Shares that `tokens` buy: one a udn at first, then floor(all shares * tokens / its tokens).
    pub fn shares_from_tokens(&self, tokens: u128) -> Result<Dec> {
        if self.shares.is_zero() {
            return Ok(Dec::from_int(tokens)?);
        }
        if self.tokens == 0 {
            return Err(errors::exchange_rate());
        }
        Ok(self.shares.mul_div(tokens, self.tokens)?)
    }

    /// Its place in [`RANKS`]: the more tokens, the smaller; none while it is jailed.
    pub(super) fn rank(&self) -> Option<u128> {
        (!self.jailed).then_some(!self.tokens)
    }
}
