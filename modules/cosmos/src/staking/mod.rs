//! Staking: who is a validator, by stake. How much a validator counts is set from outside, by [`set_power`].

mod delegations;
mod errors;
mod events;
mod evidence;
pub mod genesis;
mod invariants;
mod leaving;
mod liability;
mod msgs;
mod params;
pub mod query;
mod state;
#[cfg(test)]
mod tests;
mod validators;

use deepnode_core::{json, Ctx, KvRead, Messages, Module, Queries, Result};

pub use delegations::{delegate, delegation, delegations, redelegate, undelegate};
pub use leaving::cancel_unbonding;
pub use liability::{backing, power, powers, set_power, slash, total_power};
pub use params::{max_power_period, params, set_power_period, Params};
pub use state::{
    Commission, Description, Liability, RedelegationEntry, Status, UnbondingEntry, Validator, BONDED_POOL,
    MIN_STAKE, NOT_BONDED_POOL,
};
pub use validators::{
    bonded, bonded_tokens, create, description, jail, operator_of, tombstone, tombstoned, unjail, validator,
};

use crate::auth;

/// The module `staking`.
pub struct StakingModule;

impl Module for StakingModule {
    fn name(&self) -> &'static str {
        state::STORE
    }

    fn messages(&self, messages: &mut Messages) {
        msgs::register(messages.begin(self.name()));
    }

    fn queries(&self, queries: &mut Queries) {
        query::register(queries);
    }

    fn default_genesis(&self) -> serde_json::Value {
        serde_json::json!(genesis::Genesis::default())
    }

    fn init_genesis(&self, cx: &mut Ctx<'_>, genesis: &serde_json::Value) -> Result<()> {
        auth::ensure_module_account(cx, BONDED_POOL, &["burner", "staking"])?;
        auth::ensure_module_account(cx, NOT_BONDED_POOL, &["burner", "staking"])?;
        genesis::init(cx, json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::export(state)?)
    }

    /// Punishes what the block proves.
    fn begin_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        if !state::STARTED.load(cx)? {
            state::STARTED.set(cx, &true)?;
        }
        evidence::begin_block(cx)
    }

    /// Makes the bonded set current, then completes what has finished unbonding.
    fn end_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        validators::update_bonded_set(cx)?;
        validators::complete_unbonding(cx)?;
        leaving::complete(cx)
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        invariants::check(state)
    }
}
