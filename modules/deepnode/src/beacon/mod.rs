//! The beacon: a random value a block, and the epoch clock. See README.md.

pub mod genesis;
mod msgs;
mod params;
pub mod query;
mod state;
#[cfg(test)]
mod tests;

use deepnode_core::{json, Ctx, Error, Event, KvRead, Messages, Module, Queries, Result, Walk};

pub use params::Params;
pub use state::Epoch;
use state::{Clock, CLOCK, LAST, PARAMS, VALUES};

/// For how many heights a value is kept: longer than any window in which the chain asks for one.
pub const KEPT: u64 = 5_000;
/// Values that one block drops at most.
const DROPPED_A_BLOCK: usize = 4;

/// The module `beacon`.
pub struct BeaconModule;

impl Module for BeaconModule {
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

    fn pre_block(&self, cx: &mut Ctx<'_>) -> Result<()> {
        next_value(cx)?;
        tick(cx)
    }

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        let newest = VALUES.iter(state, Walk::REVERSE).next().transpose()?;
        match newest {
            Some((height, value)) if value != LAST.load(state)? => {
                Err(Error::fault(format!("beacon: the value of height {height} is not the last one")))
            }
            _ => Ok(()),
        }
    }
}

/// The parameters.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}

/// The value of a height: none while that height lies ahead, and none after [`KEPT`] further blocks.
pub fn value(kv: &(impl KvRead + ?Sized), height: u64) -> Result<Option<[u8; 32]>> {
    VALUES.get(kv, &height)
}

/// The epoch of this block.
pub fn epoch(kv: &(impl KvRead + ?Sized)) -> Result<Epoch> {
    Ok(CLOCK.load(kv)?.epoch)
}

/// Whether this block is the last of its epoch.
pub fn ends_epoch(kv: &(impl KvRead + ?Sized)) -> Result<bool> {
    Ok(CLOCK.load(kv)?.ends)
}

/// Chains this block to the values before it and drops values that nobody asks for any more.
fn next_value(cx: &mut Ctx<'_>) -> Result<()> {
    let height = cx.height();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&LAST.load(cx)?).update(&height.to_le_bytes()).update(&cx.block().hash);
    let value = *hasher.finalize().as_bytes();
    LAST.set(cx, &value)?;
    VALUES.set(cx, &height, &value)?;
    let first_kept = height.saturating_sub(KEPT);
    let old: Vec<u64> = VALUES
        .iter_below(cx, &first_kept)
        .take(DROPPED_A_BLOCK)
        .map(|entry| Ok(entry?.0))
        .collect::<Result<_>>()?;
    old.iter().try_for_each(|height| VALUES.remove(cx, height))
}

/// Begins the next epoch if the block before ended one, and sees whether this block ends it.
fn tick(cx: &mut Ctx<'_>) -> Result<()> {
    let params = PARAMS.load(cx)?;
    let Clock { mut epoch, ends } = CLOCK.load(cx)?;
    if ends {
        let number = epoch.number.checked_add(1).ok_or_else(|| Error::fault("epoch numbers are used up"))?;
        epoch = Epoch { number, start_height: cx.height(), start_time: cx.time() };
        cx.emit(Event::new("epoch_started").with("number", number));
    }
    let blocks = cx.height().saturating_sub(epoch.start_height).saturating_add(1);
    let ends = blocks >= params.blocks || cx.time() >= epoch.start_time.plus_secs(params.max_duration);
    CLOCK.set(cx, &Clock { epoch, ends })
}
