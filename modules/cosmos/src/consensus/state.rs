//! What the store `consensus` holds.

use deepnode_core::Item;

use super::Params;

pub const STORE: &str = "consensus";
pub const PARAMS: Item<Params> = Item::new(STORE, 0x00);
pub const CHAIN_ID: Item<String> = Item::new(STORE, 0x01);
pub const INITIAL_HEIGHT: Item<u64> = Item::new(STORE, 0x02);
pub const APP_VERSION: Item<u64> = Item::new(STORE, 0x03);
/// Greatest `evidence.max_age_duration`, seconds: pushed here by staking.
pub const MAX_EVIDENCE_AGE: Item<u64> = Item::new(STORE, 0x04);
