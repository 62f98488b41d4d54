//! The trait of a module, and the two traits that cross the order of modules.

use std::collections::BTreeMap;

use deepnode_proto::Any;
use deepnode_store::KvRead;
use deepnode_tx::Address;
use prost::{Message, Name};

use crate::num::Dec;
use crate::query::Queries;
use crate::{errors, Ctx, Result};

/// A part of the chain's state with the messages and queries that belong to it.
pub trait Module: Send + Sync {
    /// Name of the module, of its store, and of its section in the genesis file.
    fn name(&self) -> &'static str;
    /// Version of the state layout; `migrate` runs from an older one.
    fn version(&self) -> u32 {
        1
    }
    /// Registers one handler a message.
    fn messages(&self, messages: &mut Messages);
    /// Registers one handler a query.
    fn queries(&self, queries: &mut Queries);
    /// The default genesis section, JSON.
    fn default_genesis(&self) -> serde_json::Value;
    /// Writes the state that `genesis` (JSON) describes, after checking all of it.
    fn init_genesis(&self, cx: &mut Ctx<'_>, genesis: &serde_json::Value) -> Result<()>;
    /// The inverse of `init_genesis`.
    fn export_genesis(&self, state: &dyn KvRead) -> Result<serde_json::Value>;
    /// Runs before anything else of a block.
    fn pre_block(&self, _cx: &mut Ctx<'_>) -> Result<()> {
        Ok(())
    }
    /// Runs before the block's transactions.
    fn begin_block(&self, _cx: &mut Ctx<'_>) -> Result<()> {
        Ok(())
    }
    /// Runs after the block's transactions.
    fn end_block(&self, _cx: &mut Ctx<'_>) -> Result<()> {
        Ok(())
    }
    /// Brings the state from version `from` to `version()`.
    fn migrate(&self, _cx: &mut Ctx<'_>, from: u32) -> Result<()> {
        Err(crate::Error::fault(format!("module {} cannot migrate from version {from}", self.name())))
    }
    /// Fails with a fault that names what does not hold. Walks everything: tests and `deepnoded` only.
    fn invariants(&self, state: &dyn KvRead) -> Result<()>;
}

type Run = Box<dyn Fn(&mut Ctx<'_>, &[u8]) -> Result<Any> + Send + Sync>;

/// What a message does. Who must sign it stands in its `cosmos.msg.v1.signer` option: see [`deepnode_tx::signers`].
pub struct Handler {
    module: &'static str,
    run: Run,
}

impl Handler {
    /// The module that the message belongs to.
    pub fn module(&self) -> &'static str {
        self.module
    }

    /// Executes the message with these bytes; the answer is its response.
    pub fn run(&self, cx: &mut Ctx<'_>, value: &[u8]) -> Result<Any> {
        (self.run)(cx, value)
    }
}

/// All messages of the chain by type URL.
#[derive(Default)]
pub struct Messages {
    module: &'static str,
    handlers: BTreeMap<String, Handler>,
    twice: Vec<String>,
}

impl Messages {
    /// Registers what follows under `module`.
    pub fn begin(&mut self, module: &'static str) -> &mut Self {
        self.module = module;
        self
    }

    /// Registers a message: `run` executes it.
    pub fn on<M, R>(&mut self, run: fn(&mut Ctx<'_>, M) -> Result<R>) -> &mut Self
    where
        M: Message + Name + Default + 'static,
        R: Message + Name + 'static,
    {
        let run: Run = Box::new(move |cx, value| {
            let msg = M::decode(value).map_err(|e| errors::tx_decode(format!("{}: {e}", M::NAME)))?;
            let response = run(cx, msg)?;
            Ok(Any { type_url: R::type_url(), value: response.encode_to_vec() })
        });
        if self.handlers.insert(M::type_url(), Handler { module: self.module, run }).is_some() {
            self.twice.push(M::type_url());
        }
        self
    }

    /// The handler of `type_url`, code 6 if there is none.
    pub fn get(&self, type_url: &str) -> Result<&Handler> {
        self.handlers
            .get(type_url)
            .ok_or_else(|| errors::unknown_request(format!("no handler for message {type_url}")))
    }

    /// All type URLs, ascending.
    pub fn type_urls(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// Type URLs that were registered more than once; composition refuses them.
    pub fn twice(&self) -> &[String] {
        &self.twice
    }
}

/// The account that parameter changes and other decisions of governance are signed by.
pub fn authority() -> Address {
    Address::module("gov")
}

/// Refuses a message of governance that another account signed.
pub fn check_authority(signer: &str) -> Result<()> {
    let expected = authority().to_string();
    if signer == expected {
        return Ok(());
    }
    Err(errors::unauthorized(format!("authority {signer:?} must be the governance account {expected}")))
}

/// Executes messages on behalf of an account: gov and authz need it.
pub trait Router {
    /// Refuses a message that is unknown, does not decode, or has another signer than `signer`.
    fn check(&self, signer: &Address, msg: &Any) -> Result<()>;
    /// Checks and runs `msg`; its events follow the router's `message` event.
    fn run(&self, cx: &mut Ctx<'_>, signer: &Address, msg: &Any) -> Result<Any>;
}

/// Listens to staking. Validators are named by their operator's account address.
#[allow(unused_variables)]
pub trait StakingHooks: Sync {
    fn after_validator_created(&self, cx: &mut Ctx<'_>, validator: &Address) -> Result<()> {
        Ok(())
    }
    fn after_validator_removed(
        &self,
        cx: &mut Ctx<'_>,
        validator: &Address,
        consensus: &Address,
    ) -> Result<()> {
        Ok(())
    }
    fn after_validator_bonded(
        &self,
        cx: &mut Ctx<'_>,
        validator: &Address,
        consensus: &Address,
    ) -> Result<()> {
        Ok(())
    }
    fn after_validator_begin_unbonding(
        &self,
        cx: &mut Ctx<'_>,
        validator: &Address,
        consensus: &Address,
    ) -> Result<()> {
        Ok(())
    }
    fn before_delegation_modified(
        &self,
        cx: &mut Ctx<'_>,
        delegator: &Address,
        validator: &Address,
    ) -> Result<()> {
        Ok(())
    }
    fn after_delegation_modified(
        &self,
        cx: &mut Ctx<'_>,
        delegator: &Address,
        validator: &Address,
    ) -> Result<()> {
        Ok(())
    }
    /// `fraction` is what is really taken of the validator's tokens.
    fn before_validator_slashed(&self, cx: &mut Ctx<'_>, validator: &Address, fraction: Dec) -> Result<()> {
        Ok(())
    }
}
