//! A state in memory to test one module on, without consensus. Feature `testing`.

use deepnode_proto::Any;
use deepnode_store::{Changes, Empty, Overlay};
use deepnode_tx::Address;

use crate::block::BlockInfo;
use crate::ctx::Wiring;
use crate::event::Event;
use crate::module::{Router, StakingHooks};
use crate::query::QueryCtx;
use crate::{errors, Ctx, Result};

/// Refuses every message.
pub struct NoRouter;

impl Router for NoRouter {
    fn check(&self, _: &Address, msg: &Any) -> Result<()> {
        Err(errors::unknown_request(&msg.type_url))
    }
    fn run(&self, _: &mut Ctx<'_>, signer: &Address, msg: &Any) -> Result<Any> {
        self.check(signer, msg)?;
        Err(errors::unknown_request(&msg.type_url))
    }
}

/// A chain of one state: what `run` writes stays for the next `run` if it returned Ok.
#[derive(Default)]
pub struct TestState {
    pub block: BlockInfo,
    pub changes: Changes,
    /// Events of the last `run`.
    pub events: Vec<Event>,
    pub hooks: Vec<&'static dyn StakingHooks>,
}

impl TestState {
    /// An empty state at height 1 of chain `test-1`.
    pub fn new() -> Self {
        let block = BlockInfo { chain_id: "test-1".into(), height: 1, ..BlockInfo::default() };
        TestState { block, ..TestState::default() }
    }

    /// Runs `f`; what it wrote is kept if it returns Ok.
    pub fn run<T>(&mut self, f: impl FnOnce(&mut Ctx<'_>) -> Result<T>) -> Result<T> {
        self.run_routed(&NoRouter, f)
    }

    /// The same with a router.
    pub fn run_routed<T>(
        &mut self,
        router: &dyn Router,
        f: impl FnOnce(&mut Ctx<'_>) -> Result<T>,
    ) -> Result<T> {
        let wiring = Wiring { router, hooks: &self.hooks };
        let mut cx = Ctx::new(Overlay::new(&Empty, self.changes.clone()), &self.block, wiring);
        let result = cx.fork(f);
        self.events = cx.take_events();
        self.changes = cx.into_changes();
        result
    }

    /// Reads the state as a query does.
    pub fn query<T>(&self, f: impl FnOnce(QueryCtx<'_>) -> T) -> T {
        let state = Overlay::new(&Empty, self.changes.clone());
        f(QueryCtx { state: &state, block: &self.block })
    }
}
