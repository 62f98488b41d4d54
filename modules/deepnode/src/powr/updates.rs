//! What CometBFT is told: the difference between the powers and what it was last told.

use std::collections::BTreeMap;

use deepnode_core::{Ctx, Error, Event, KvRead, Result, Walk};
use deepnode_cosmos::staking;

use super::state::SENT;

/// A validator's power for CometBFT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidatorUpdate {
    /// ed25519.
    pub consensus_key: [u8; 32],
    /// 0 takes it out of the set.
    pub power: u64,
}

/// The changes since the last call, by key: at InitChain all validators, later what a block changed. One entry a key;
/// a power of 0 only for a key that CometBFT has; and never so much that nobody would be left: if no validator has
/// power, CometBFT goes on with the set that it has. Call it once, at the very end of a block.
pub fn validator_updates(cx: &mut Ctx<'_>) -> Result<Vec<ValidatorUpdate>> {
    let now = told(cx)?;
    let sent: BTreeMap<[u8; 32], u64> = SENT.iter(cx, Walk::FORWARD).collect::<Result<_>>()?;
    if now.is_empty() {
        if !sent.is_empty() {
            cx.emit(Event::new("validator_set_kept").with("validators", sent.len()));
        }
        return Ok(Vec::new());
    }
    let updates = difference(&sent, &now);
    for update in &updates {
        match update.power {
            0 => SENT.remove(cx, &update.consensus_key)?,
            power => SENT.set(cx, &update.consensus_key, &power)?,
        }
    }
    Ok(updates)
}

/// The powers by consensus key, as CometBFT has to know them.
pub(super) fn told(kv: &(impl KvRead + ?Sized)) -> Result<BTreeMap<[u8; 32], u64>> {
    let powers = staking::powers(kv)?.into_iter().map(|(operator, power)| {
        let validator = staking::validator(kv, &operator)?
            .ok_or_else(|| Error::fault(format!("powr: {operator} has power {power} and is no validator")))?;
        Ok((validator.consensus_key, power))
    });
    powers.collect()
}

/// What turns `sent` into `now`, by key.
pub(super) fn difference(
    sent: &BTreeMap<[u8; 32], u64>,
    now: &BTreeMap<[u8; 32], u64>,
) -> Vec<ValidatorUpdate> {
    let changed = now.iter().filter(|(key, power)| sent.get(*key) != Some(power));
    let gone = sent.keys().filter(|key| !now.contains_key(*key)).map(|key| (*key, 0));
    let all: BTreeMap<[u8; 32], u64> = changed.map(|(key, power)| (*key, *power)).chain(gone).collect();
    all.into_iter().map(|(consensus_key, power)| ValidatorUpdate { consensus_key, power }).collect()
}
