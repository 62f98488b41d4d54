//! Proof of Work & Reputation: voting power follows verified compute and long-term reputation, bounded by stake.
//! See README.md.

mod epoch;
pub mod genesis;
mod hooks;
pub mod math;
mod msgs;
mod params;
pub mod query;
mod scores;
mod state;
#[cfg(test)]
mod tests;
mod updates;

use std::collections::BTreeMap;

use deepnode_core::{json, Ctx, Error, KvRead, Messages, Module, Queries, Result, Walk};
use deepnode_cosmos::staking;

use crate::{audits, beacon};

pub use hooks::PowrHooks;
pub use params::{params, Params};
pub use scores::{score, standing};
pub use state::{Score, Signing, Standing, Terms};
pub use updates::{validator_updates, ValidatorUpdate};

/// Final receipts, convictions and audits each that one block credits at most; the rest follow in the next ones.
const CREDITED_A_BLOCK: usize = 500;

/// The module `powr`.
pub struct PowrModule;

impl Module for PowrModule {
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
        genesis::init(cx, json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::export(state)?)
    }

    /// Counts who signed the last block.
    fn begin_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        epoch::count_votes(cx)
    }

    /// Credits what is final, then, at an epoch's end, sets the powers. Runs after staking's.
    fn end_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        // No message is to blame for what fails here.
        finish(cx).map_err(|e| Error::fault(format!("powr: {e}")))
    }

    /// Who is bonded and not jailed has power, and nobody else; CometBFT has been told so.
    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        let mut members = 0usize;
        for (operator, _) in staking::bonded(state)? {
            let jailed = staking::validator(state, &operator)?.is_none_or(|v| v.jailed);
            let power = staking::power(state, &operator)?;
            if jailed == (power > 0) {
                return Err(Error::fault(format!(
                    "powr: bonded {operator} (jailed: {jailed}) has power {power}"
                )));
            }
            members = members.saturating_add(usize::from(!jailed));
        }
        let powers = staking::powers(state)?;
        if powers.len() != members {
            return Err(Error::fault(format!("powr: {} have power, {members} are bonded", powers.len())));
        }
        let sent: BTreeMap<[u8; 32], u64> = state::SENT.iter(state, Walk::FORWARD).collect::<Result<_>>()?;
        let told = updates::told(state)?;
        // Where nobody has power CometBFT goes on with the set that it has.
        if !told.is_empty() && sent != told {
            return Err(Error::fault(format!("powr: CometBFT was told {sent:?}, the powers are {told:?}")));
        }
        Ok(())
    }
}

fn finish(cx: &mut Ctx<'_>) -> Result<()> {
    for receipt in audits::take_final(cx, CREDITED_A_BLOCK)? {
        scores::credit_receipt(cx, &receipt)?;
    }
    for conviction in audits::take_convictions(cx, CREDITED_A_BLOCK)? {
        scores::convict(cx, &conviction)?;
    }
    for work in audits::take_audit_work(cx, CREDITED_A_BLOCK)? {
        scores::credit_audit(cx, &work)?;
    }
    epoch::readmit(cx)?;
    if beacon::ends_epoch(cx)? {
        epoch::set_powers(cx)?;
    }
    Ok(())
}
