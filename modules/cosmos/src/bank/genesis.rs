//! The genesis section: cosmos.bank's JSON.

use deepnode_core::coin::check_denom;
use deepnode_core::{errors, json, Address, Coin, Coins, Ctx, Error, KvRead, NumError, Result, Walk, UDN};
use serde::{Deserialize, Serialize};

use super::state::{DenomUnit, Metadata, BALANCES, METADATA, PARAMS, SEND_ENABLED, SUPPLY};
use super::Params;

/// Greatest exponent of a unit, as an amount has at most 39 digits.
const MAX_EXPONENT: u32 = 38;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Genesis {
    pub params: Params,
    pub balances: Vec<BalanceJson>,
    /// What the balances must add up to; unchecked if empty.
    pub supply: Vec<CoinJson>,
    pub denom_metadata: Vec<Metadata>,
    pub send_enabled: Vec<SendEnabledJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalanceJson {
    #[serde(with = "json::text")]
    pub address: Address,
    pub coins: Vec<CoinJson>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoinJson {
    pub denom: String,
    #[serde(with = "json::text")]
    pub amount: u128,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendEnabledJson {
    pub denom: String,
    pub enabled: bool,
}

impl Default for Genesis {
    fn default() -> Self {
        let unit = |denom: &str, exponent, alias: &str| DenomUnit {
            denom: denom.into(),
            exponent,
            aliases: vec![alias.into()],
        };
        let dn = Metadata {
            description: "The token of DeepNode".into(),
            denom_units: vec![unit(UDN, 0, "microdn"), unit("dn", 6, "DN")],
            base: UDN.into(),
            display: "dn".into(),
            name: "DeepNode".into(),
            symbol: "DN".into(),
            ..Metadata::default()
        };
        Genesis {
            params: Params::default(),
            balances: Vec::new(),
            supply: Vec::new(),
            denom_metadata: vec![dn],
            send_enabled: Vec::new(),
        }
    }
}

fn refuse(text: String) -> Error {
    errors::invalid_request(format!("genesis of bank: {text}"))
}

pub fn init(cx: &mut Ctx<'_>, genesis: Genesis) -> Result<()> {
    PARAMS.set(cx, &genesis.params)?;
    let mut sum = Coins::new();
    for balance in &genesis.balances {
        if BALANCES.iter_from(cx, &balance.address, Walk::FORWARD).next().is_some() {
            return Err(refuse(format!("balances of {} appear twice", balance.address)));
        }
        let coins = coins("balances", &balance.coins)?;
        coins.iter().try_for_each(|coin| sum.add(&coin))?;
        super::add(cx, &balance.address, &coins)?;
    }
    if !genesis.supply.is_empty() {
        let supply = coins("supply", &genesis.supply)?;
        if supply != sum {
            return Err(refuse(format!("supply is {supply}, the balances add up to {sum}")));
        }
    }
    for coin in sum.iter() {
        SUPPLY.set(cx, &coin.denom, &coin.amount)?;
    }
    for metadata in &genesis.denom_metadata {
        check_metadata(metadata)?;
        if METADATA.has(cx, &metadata.base)? {
            return Err(refuse(format!("denom_metadata of {} appears twice", metadata.base)));
        }
        METADATA.set(cx, &metadata.base, metadata)?;
    }
    for setting in &genesis.send_enabled {
        check_denom("send_enabled", &setting.denom)?;
        SEND_ENABLED.set(cx, &setting.denom, &setting.enabled)?;
    }
    Ok(())
}

/// Checks coins as those of a message, but in any order.
fn coins(field: &str, list: &[CoinJson]) -> Result<Coins> {
    let mut sorted: Vec<_> = list.iter().map(|c| Coin::new(c.amount, c.denom.clone()).to_proto()).collect();
    sorted.sort_by(|a, b| a.denom.cmp(&b.denom));
    Coins::from_proto(field, &sorted)
}

/// The base unit comes first with exponent 0, exponents ascend, the display unit is one of the units.
fn check_metadata(metadata: &Metadata) -> Result<()> {
    check_denom("denom_metadata.base", &metadata.base)?;
    let of = |text: String| Err(refuse(format!("denom_metadata of {}: {text}", metadata.base)));
    let mut last = None;
    for unit in &metadata.denom_units {
        NumError::in_range("denom_units.exponent", unit.exponent, 0, MAX_EXPONENT)?;
        if last.is_none() && (unit.denom != metadata.base || unit.exponent != 0) {
            return of("the first unit must be the base with exponent 0".into());
        }
        if last.is_some_and(|last| last >= unit.exponent) {
            return of(format!("exponents must ascend, {} {}", unit.denom, unit.exponent));
        }
        last = Some(unit.exponent);
    }
    if !metadata.denom_units.iter().any(|unit| unit.denom == metadata.display) {
        return of(format!("display {:?} is not among the units", metadata.display));
    }
    Ok(())
}

pub fn export(kv: &dyn KvRead) -> Result<Genesis> {
    let json = |denom, amount| CoinJson { denom, amount };
    let mut balances: Vec<BalanceJson> = Vec::new();
    for entry in BALANCES.iter(kv, Walk::FORWARD) {
        let ((address, denom), amount) = entry?;
        match balances.last_mut() {
            Some(last) if last.address == address => last.coins.push(json(denom, amount)),
            _ => balances.push(BalanceJson { address, coins: vec![json(denom, amount)] }),
        }
    }
    let supply = SUPPLY.iter(kv, Walk::FORWARD).map(|e| e.map(|(denom, amount)| json(denom, amount)));
    let settings = SEND_ENABLED.iter(kv, Walk::FORWARD);
    let settings = settings.map(|e| e.map(|(denom, enabled)| SendEnabledJson { denom, enabled }));
    Ok(Genesis {
        params: PARAMS.load(kv)?,
        balances,
        supply: supply.collect::<Result<_>>()?,
        denom_metadata: METADATA.iter(kv, Walk::FORWARD).map(|e| e.map(|(_, m)| m)).collect::<Result<_>>()?,
        send_enabled: settings.collect::<Result<_>>()?,
    })
}
