//! What the store `bank` holds.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{Address, Item, Map, Set};
use deepnode_proto::cosmos::bank::v1beta1 as proto;
use serde::{Deserialize, Serialize};

use super::Params;

pub const STORE: &str = "bank";
/// Above zero.
pub const SUPPLY: Map<String, u128> = Map::new(STORE, 0x00);
pub const METADATA: Map<String, Metadata> = Map::new(STORE, 0x01);
/// Above zero.
pub const BALANCES: Map<(Address, String), u128> = Map::new(STORE, 0x02);
/// The index of balances by denomination.
pub const OWNERS: Set<(String, Address)> = Set::new(STORE, 0x03);
/// Denominations that do not follow the parameter.
pub const SEND_ENABLED: Map<String, bool> = Map::new(STORE, 0x04);
pub const PARAMS: Item<Params> = Item::new(STORE, 0x05);

/// How clients show a denomination.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metadata {
    pub description: String,
    /// The base unit first, exponents ascending.
    pub denom_units: Vec<DenomUnit>,
    /// The unit of balances.
    pub base: String,
    /// The unit that people read.
    pub display: String,
    pub name: String,
    pub symbol: String,
    pub uri: String,
    /// sha256 of what `uri` leads to, hex.
    pub uri_hash: String,
}

/// 10^exponent of the base unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenomUnit {
    pub denom: String,
    pub exponent: u32,
    pub aliases: Vec<String>,
}

impl Metadata {
    /// As protobuf has it.
    pub fn to_proto(&self) -> proto::Metadata {
        let unit = |u: &DenomUnit| proto::DenomUnit {
            denom: u.denom.clone(),
            exponent: u.exponent,
            aliases: u.aliases.clone(),
        };
        proto::Metadata {
            description: self.description.clone(),
            denom_units: self.denom_units.iter().map(unit).collect(),
            base: self.base.clone(),
            display: self.display.clone(),
            name: self.name.clone(),
            symbol: self.symbol.clone(),
            uri: self.uri.clone(),
            uri_hash: self.uri_hash.clone(),
        }
    }
}
