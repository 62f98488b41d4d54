//! What CometBFT tells once, at InitChain: chain id, initial height, consensus parameters, application version. See
//! README.md.

pub mod genesis;
pub mod msgs;
pub mod params;
pub mod query;
pub mod state;
#[cfg(test)]
mod tests;

use deepnode_core::{json, Ctx, Error, KvRead, Messages, Module, Queries, Result};

pub use params::Params;
use state::{APP_VERSION, CHAIN_ID, INITIAL_HEIGHT, MAX_EVIDENCE_AGE, PARAMS};

/// The module.
pub struct ConsensusModule;

impl Module for ConsensusModule {
    fn name(&self) -> &'static str {
        state::STORE
    }

    fn messages(&self, messages: &mut Messages) {
        messages.on(msgs::update_params);
    }

    fn queries(&self, queries: &mut Queries) {
        query::register(queries);
    }

    /// Empty: CometBFT's genesis file holds the parameters, and InitChain brings them.
    fn default_genesis(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    fn init_genesis(&self, cx: &mut Ctx<'_>, genesis: &serde_json::Value) -> Result<()> {
        genesis::init(cx, &json::parse(self.name(), genesis)?)
    }

    fn export_genesis(&self, _: &dyn KvRead) -> Result<serde_json::Value> {
        json::to_value(&genesis::Genesis {})
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        params(state)?.check().map_err(Error::fault)
    }
}

/// Stores what InitChain brings; before any other module's genesis.
pub fn init_chain(cx: &mut Ctx<'_>, initial_height: u64, app_version: u64, params: &Params) -> Result<()> {
    params.check()?;
    PARAMS.set(cx, params)?;
    CHAIN_ID.set(cx, &cx.block().chain_id)?;
    INITIAL_HEIGHT.set(cx, &initial_height)?;
    APP_VERSION.set(cx, &app_version)
}

/// The consensus parameters in force from the next block on.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}

/// The version of the application: `version.app` of the headers.
pub fn app_version(kv: &(impl KvRead + ?Sized)) -> Result<u64> {
    APP_VERSION.load(kv)
}

/// Sets the version of the application (an upgrade).
pub fn set_app_version(cx: &mut Ctx<'_>, version: u64) -> Result<()> {
    APP_VERSION.set(cx, &version)
}

/// The chain's name: part of all that is signed.
pub fn chain_id(kv: &(impl KvRead + ?Sized)) -> Result<String> {
    CHAIN_ID.load(kv)
}

/// The height of the first block.
pub fn initial_height(kv: &(impl KvRead + ?Sized)) -> Result<u64> {
    INITIAL_HEIGHT.load(kv)
}

/// How old evidence may be: blocks, and whole seconds. It is too old once it is past both.
pub fn evidence_age(kv: &(impl KvRead + ?Sized)) -> Result<(u64, u64)> {
    let evidence = params(kv)?.evidence;
    Ok((evidence.max_age_num_blocks, evidence.max_age_seconds()))
}

/// Bounds `evidence.max_age_duration` of later updates. Staking, which comes later in the order of modules, calls this
/// whenever it changes how long stake stays after its last power.
pub fn limit_evidence_age(cx: &mut Ctx<'_>, seconds: u64) -> Result<()> {
    MAX_EVIDENCE_AGE.set(cx, &seconds)
}
