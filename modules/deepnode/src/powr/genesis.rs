//! The genesis section. Scores, standings and terms are exported as they are kept: hex of their borsh encoding.

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_core::{errors, json, Address, Ctx, Dec, Error, KvRead, Map, Result, Walk};
use serde::{Deserialize, Serialize};

use super::state::{PARAMS, RHO, SCORES, SIGNING, STAKE_BASE, STANDINGS, TERMS, TERMS_EPOCH};
use super::{epoch, Params};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    pub params: Params,
    #[serde(with = "json::text")]
    pub rho: Dec,
    /// udn; 0 for a chain that starts.
    #[serde(with = "json::text")]
    pub stake_base: u128,
    #[serde(with = "json::text")]
    pub terms_epoch: u64,
    /// Blocks signed and due in the running epoch.
    pub signing: String,
    pub scores: Vec<Entry>,
    pub standings: Vec<Entry>,
    pub terms: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    #[serde(with = "json::text")]
    pub address: Address,
    pub value: String,
}

impl Default for Genesis {
    fn default() -> Self {
        Genesis::new(Params::default())
    }
}

impl Genesis {
    /// A chain on which nobody has worked yet: powers follow stake.
    pub fn new(params: Params) -> Self {
        Genesis {
            params,
            rho: Dec::ONE,
            stake_base: 0,
            terms_epoch: 0,
            signing: String::new(),
            scores: Vec::new(),
            standings: Vec::new(),
            terms: Vec::new(),
        }
    }
}

pub(super) fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    genesis.params.check()?;
    if genesis.rho > Dec::ONE {
        return Err(errors::invalid_request(format!(
            "genesis powr.rho is {}, allowed are 0 to 1",
            genesis.rho
        )));
    }
    PARAMS.set(cx, &genesis.params)?;
    RHO.set(cx, &genesis.rho)?;
    if genesis.stake_base > 0 {
        STAKE_BASE.set(cx, &genesis.stake_base)?;
    }
    read_all(cx, "scores", &SCORES, &genesis.scores)?;
    read_all(cx, "standings", &STANDINGS, &genesis.standings)?;
    epoch::set_genesis_powers(cx)?;
    if !genesis.signing.is_empty() {
        SIGNING.set(cx, &decode("signing", &genesis.signing)?)?;
    }
    if !genesis.terms.is_empty() {
        TERMS_EPOCH.set(cx, &genesis.terms_epoch)?;
        read_all(cx, "terms", &TERMS, &genesis.terms)?;
    }
    Ok(())
}

pub(super) fn export(kv: &dyn KvRead) -> Result<Genesis> {
    Ok(Genesis {
        rho: RHO.get(kv)?.unwrap_or(Dec::ONE),
        stake_base: STAKE_BASE.get(kv)?.unwrap_or(0),
        terms_epoch: TERMS_EPOCH.get(kv)?.unwrap_or(0),
        signing: encode(&SIGNING.get(kv)?.unwrap_or_default())?,
        scores: write_all(kv, &SCORES)?,
        standings: write_all(kv, &STANDINGS)?,
        terms: write_all(kv, &TERMS)?,
        ..Genesis::new(super::params(kv)?)
    })
}

fn read_all<V: BorshSerialize + BorshDeserialize>(
    cx: &mut Ctx<'_>,
    field: &str,
    map: &Map<Address, V>,
    entries: &[Entry],
) -> Result<()> {
    entries.iter().try_for_each(|entry| map.set(cx, &entry.address, &decode(field, &entry.value)?))
}

fn write_all<V: BorshSerialize + BorshDeserialize>(
    kv: &dyn KvRead,
    map: &Map<Address, V>,
) -> Result<Vec<Entry>> {
    map.iter(kv, Walk::FORWARD)
        .map(|entry| {
            let (address, value) = entry?;
            Ok(Entry { address, value: encode(&value)? })
        })
        .collect()
}

fn decode<V: BorshDeserialize>(field: &str, text: &str) -> Result<V> {
    let bad = |e: String| errors::invalid_request(format!("genesis powr.{field}: {e}"));
    borsh::from_slice(&hex::decode(text).map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))
}

fn encode(value: &impl BorshSerialize) -> Result<String> {
    Ok(hex::encode(borsh::to_vec(value).map_err(Error::fault)?))
}
