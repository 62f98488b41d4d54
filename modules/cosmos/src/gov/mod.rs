//! Governance: proposals whose messages the governance account signs, decided by bonded stake.

mod closing;
mod errors;
mod events;
pub mod genesis;
mod legacy;
mod msgs;
mod params;
mod proposals;
mod query;
mod state;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use deepnode_core::{authority, json, Coins, Ctx, Error, KvRead, Messages, Module, Queries, Result, Walk};

pub use msgs::UNHANDLED;
pub use params::{params, Params};
pub use proposals::proposal;
pub use state::{Choice, Message, Proposal, Status, Vote};

use crate::{auth, bank};

/// The module `gov`.
pub struct GovModule;

impl Module for GovModule {
    fn name(&self) -> &'static str {
        state::STORE
    }

    fn messages(&self, messages: &mut Messages) {
        msgs::register(messages.begin(self.name()));
        legacy::register_messages(messages);
    }

    fn queries(&self, queries: &mut Queries) {
        query::register(queries);
        legacy::register_queries(queries);
    }

    fn default_genesis(&self) -> serde_json::Value {
        serde_json::json!(genesis::Genesis::default())
    }

    fn init_genesis(&self, cx: &mut Ctx<'_>, genesis: &serde_json::Value) -> Result<()> {
        auth::ensure_module_account(cx, self.name(), &["burner"])?;
        genesis::init(cx, json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::export(state)?)
    }

    /// Drops, counts, executes and settles what is due.
    fn end_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        closing::end_block(cx)
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        invariants(state)
    }
}

/// Deposits are those of proposals that are open or settled just now, and the account holds them; queues name what
/// is open.
fn invariants(kv: &(impl KvRead + ?Sized)) -> Result<()> {
    let broken = |what: String| Err(Error::fault(format!("gov: {what}")));
    let mut of_proposals: BTreeMap<u64, Coins> = BTreeMap::new();
    let mut all = Coins::new();
    for entry in state::DEPOSITS.iter(kv, Walk::FORWARD) {
        let ((id, _), amount) = entry?;
        for coin in amount.iter() {
            of_proposals.entry(id).or_default().add(&coin)?;
            all.add(&coin)?;
        }
    }
    for coin in all.iter() {
        let held = bank::balance(kv, &authority(), &coin.denom)?;
        if held < coin.amount {
            return broken(format!("the account holds {held} of deposits {coin}"));
        }
    }
    for entry in state::PROPOSALS.iter(kv, Walk::FORWARD) {
        let (id, p) = entry?;
        let deposits = of_proposals.remove(&id).unwrap_or_default();
        let queued = match (p.status, p.voting) {
            (Status::DepositPeriod, _) => state::DEPOSIT_QUEUE.has(kv, &(p.deposit_end, id))?,
            (Status::VotingPeriod, Some((_, end))) => state::VOTING_QUEUE.has(kv, &(end, id))?,
            (Status::VotingPeriod, None) => false,
            // Closed: deposits, if any are left, are being settled.
            _ if deposits.is_empty() || state::SETTLING.has(kv, &id)? => continue,
            _ => return broken(format!("proposal {id} is closed and keeps deposits {deposits}")),
        };
        if !queued {
            return broken(format!("proposal {id} is open and in no queue"));
        }
        if deposits != p.deposit {
            return broken(format!("proposal {id} counts {} of deposits {deposits}", p.deposit));
        }
    }
    for id in of_proposals.keys() {
        if !state::SETTLING.has(kv, id)? {
            return broken(format!("deposits of {id}, which is no proposal"));
        }
    }
    Ok(())
}
