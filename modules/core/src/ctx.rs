//! The context that every handler and hook gets: state, gas, events, block.

use deepnode_store::{Changes, Entries, KvRead, KvWrite, Overlay, Range, StoreName};

use crate::block::{BlockInfo, Time};
use crate::event::Event;
use crate::gas::{cost, GasMeter};
use crate::module::{Router, StakingHooks};
use crate::Result;

/// What of the composition a module may reach: messages of other modules, and listeners to staking.
#[derive(Clone, Copy)]
pub struct Wiring<'a> {
    pub router: &'a dyn Router,
    pub hooks: &'a [&'a dyn StakingHooks],
}

/// State under change, with its gas meter, its events and the block it belongs to.
pub struct Ctx<'a> {
    state: Overlay<'a>,
    gas: GasMeter,
    events: Vec<Event>,
    block: &'a BlockInfo,
    wiring: Wiring<'a>,
}

impl<'a> Ctx<'a> {
    /// A context over `state`; gas is counted and not limited.
    pub fn new(state: Overlay<'a>, block: &'a BlockInfo, wiring: Wiring<'a>) -> Self {
        Ctx { state, gas: GasMeter::unlimited(), events: Vec::new(), block, wiring }
    }

    /// The block.
    pub fn block(&self) -> &'a BlockInfo {
        self.block
    }

    /// The block's height.
    pub fn height(&self) -> u64 {
        self.block.height
    }

    /// The block's time.
    pub fn time(&self) -> Time {
        self.block.time
    }

    /// Executes messages of other modules.
    pub fn router(&self) -> &'a dyn Router {
        self.wiring.router
    }

    /// Listeners to staking, in their order.
    pub fn hooks(&self) -> &'a [&'a dyn StakingHooks] {
        self.wiring.hooks
    }

    /// Adds an event.
    pub fn emit(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Events since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The gas meter.
    pub fn gas(&self) -> &GasMeter {
        &self.gas
    }

    /// Charges `amount` for work that is not state access; `what` names it in the error.
    pub fn consume_gas(&self, amount: u64, what: &str) -> Result<()> {
        self.gas.consume(amount, what)
    }

    /// Puts another meter in place and returns the old one.
    pub fn swap_gas(&mut self, gas: GasMeter) -> GasMeter {
        std::mem::replace(&mut self.gas, gas)
    }

    /// Runs `f`; its changes and events are kept if it returns Ok, and dropped otherwise. Gas stays spent.
    pub fn fork<T>(&mut self, f: impl FnOnce(&mut Ctx<'a>) -> Result<T>) -> Result<T> {
        self.state.push();
        let events = self.events.len();
        let result = f(self);
        self.state.pop(result.is_ok());
        if result.is_err() {
            self.events.truncate(events);
        }
        result
    }

    /// What was written.
    pub fn into_changes(self) -> Changes {
        self.state.into_changes()
    }
}

impl KvRead for Ctx<'_> {
    fn get(&self, store: StoreName, key: &[u8]) -> Result<Option<Vec<u8>>> {
        // Flat first: who cannot pay for the read does not get it done.
        self.gas.consume(cost::READ, "ReadFlat")?;
        let value = self.state.get(store, key)?;
        self.gas.bytes(0, cost::READ_BYTE, key.len(), value.as_ref().map_or(0, Vec::len), "ReadPerByte")?;
        Ok(value)
    }

    fn has(&self, store: StoreName, key: &[u8]) -> Result<bool> {
        self.gas.consume(cost::HAS, "Has")?;
        self.state.has(store, key)
    }

    fn scan<'b>(&'b self, store: StoreName, range: Range) -> Entries<'b> {
        Box::new(self.state.scan(store, range).map(|entry| {
            let (key, value) = entry?;
            self.gas.bytes(cost::ITER_STEP, cost::READ_BYTE, key.len(), value.len(), "Iterator")?;
            Ok((key, value))
        }))
    }
}

impl KvWrite for Ctx<'_> {
    fn set(&mut self, store: StoreName, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.gas.bytes(cost::WRITE, cost::WRITE_BYTE, key.len(), value.len(), "WriteFlat")?;
        self.state.set(store, key, value)
    }

    fn remove(&mut self, store: StoreName, key: &[u8]) -> Result<()> {
        self.gas.consume(cost::DELETE, "Delete")?;
        self.state.remove(store, key)
    }
}
