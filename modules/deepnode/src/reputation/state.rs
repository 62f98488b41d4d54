//! What reputation keeps, all of it in the store `reputation`.

use deepnode_core::{Address, Dec, Item, Map};

use super::math::Record;
use crate::params::ReputationParams;

pub(super) const STORE: &str = "reputation";

pub(super) const PARAMS: Item<ReputationParams> = Item::new(STORE, 0x01);
/// Factor an epoch on all evidence; follows from the half-life.
pub(super) const FACTOR: Item<Dec> = Item::new(STORE, 0x02);
/// By (subject, capability), as of the record's epoch.
pub(super) const RECORDS: Map<(Address, String), Record> = Map::new(STORE, 0x11);
