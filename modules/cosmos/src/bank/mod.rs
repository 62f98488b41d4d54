//! Balances and supply. See README.md.

pub mod events;
pub mod genesis;
pub mod msgs;
pub mod params;
pub mod query;
pub mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use deepnode_core::num::amount;
use deepnode_core::{
    errors, json, Address, Coin, Coins, Ctx, Error, KvRead, Messages, Module, Queries, Result, Walk, UDN,
};

use crate::auth;
pub use params::Params;
pub use state::{DenomUnit, Metadata};
use state::{BALANCES, OWNERS, PARAMS, SEND_ENABLED, SUPPLY};

/// The module.
pub struct BankModule;

impl Module for BankModule {
    fn name(&self) -> &'static str {
        state::STORE
    }

    fn messages(&self, messages: &mut Messages) {
        messages.on(msgs::send).on(msgs::multi_send).on(msgs::update_params).on(msgs::set_send_enabled);
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

    fn invariants(&self, state: &dyn KvRead) -> Result<()> {
        invariants(state)
    }
}

/// The parameters.
pub fn params(kv: &(impl KvRead + ?Sized)) -> Result<Params> {
    PARAMS.load(kv)
}

/// What an address holds of a denomination.
pub fn balance(kv: &(impl KvRead + ?Sized), address: &Address, denom: &str) -> Result<u128> {
    Ok(BALANCES.get(kv, &(*address, denom.to_owned()))?.unwrap_or(0))
}

/// What an address holds of udn.
pub fn balance_udn(kv: &(impl KvRead + ?Sized), address: &Address) -> Result<u128> {
    balance(kv, address, UDN)
}

/// All that exists of a denomination.
pub fn supply(kv: &(impl KvRead + ?Sized), denom: &str) -> Result<u128> {
    Ok(SUPPLY.get(kv, &denom.to_owned())?.unwrap_or(0))
}

/// Moves coins; the receiver's account is opened if there is none.
pub fn send(cx: &mut Ctx<'_>, from: &Address, to: &Address, coins: &Coins) -> Result<()> {
    subtract(cx, from, coins)?;
    cx.emit(events::spent(from, coins));
    add(cx, to, coins)?;
    cx.emit(events::received(to, coins));
    cx.emit(events::transfer(from, to, coins));
    cx.emit(events::sender(from));
    Ok(())
}

/// Creates coins.
pub fn mint(cx: &mut Ctx<'_>, to: &Address, coins: &Coins) -> Result<()> {
    for coin in coins.iter() {
        let supply = amount::add(supply(cx, &coin.denom)?, coin.amount)?;
        SUPPLY.set(cx, &coin.denom, &supply)?;
    }
    add(cx, to, coins)?;
    cx.emit(events::received(to, coins));
    cx.emit(events::minted(to, coins));
    Ok(())
}

/// Destroys coins.
pub fn burn(cx: &mut Ctx<'_>, from: &Address, coins: &Coins) -> Result<()> {
    subtract(cx, from, coins)?;
    for coin in coins.iter() {
        let left = supply(cx, &coin.denom)?
            .checked_sub(coin.amount)
            .ok_or_else(|| Error::fault(format!("bank: supply of {} is below what is burned", coin.denom)))?;
        match left {
            0 => SUPPLY.remove(cx, &coin.denom)?,
            left => SUPPLY.set(cx, &coin.denom, &left)?,
        }
    }
    cx.emit(events::spent(from, coins));
    cx.emit(events::burned(from, coins));
    Ok(())
}

/// Moves udn; nothing happens for 0.
pub fn send_udn(cx: &mut Ctx<'_>, from: &Address, to: &Address, amount: u128) -> Result<()> {
    unless_zero(amount, |coins| send(cx, from, to, coins))
}

/// Creates udn; nothing happens for 0.
pub fn mint_udn(cx: &mut Ctx<'_>, to: &Address, amount: u128) -> Result<()> {
    unless_zero(amount, |coins| mint(cx, to, coins))
}

/// Destroys udn; nothing happens for 0.
pub fn burn_udn(cx: &mut Ctx<'_>, from: &Address, amount: u128) -> Result<()> {
    unless_zero(amount, |coins| burn(cx, from, coins))
}

fn unless_zero(amount: u128, f: impl FnOnce(&Coins) -> Result<()>) -> Result<()> {
    if amount == 0 {
        return Ok(());
    }
    f(&Coins::from(Coin::udn(amount)))
}

/// Whether users may send a denomination.
pub fn send_enabled(kv: &(impl KvRead + ?Sized), denom: &str) -> Result<bool> {
    match SEND_ENABLED.get(kv, &denom.to_owned())? {
        Some(enabled) => Ok(enabled),
        None => Ok(params(kv)?.default_send_enabled),
    }
}

/// Takes coins from an address, which must hold them.
fn subtract(cx: &mut Ctx<'_>, from: &Address, coins: &Coins) -> Result<()> {
    for coin in coins.iter() {
        let held = balance(cx, from, &coin.denom)?;
        let left = held.checked_sub(coin.amount).ok_or_else(|| {
            let held = Coin::new(held, coin.denom.clone());
            errors::insufficient_funds(format!("spendable balance {held} is smaller than {coin}"))
        })?;
        set_balance(cx, from, &coin.denom, left)?;
    }
    Ok(())
}

/// Gives coins to an address.
fn add(cx: &mut Ctx<'_>, to: &Address, coins: &Coins) -> Result<()> {
    auth::ensure_account(cx, to)?;
    for coin in coins.iter() {
        let held = balance(cx, to, &coin.denom)?;
        if held == 0 {
            OWNERS.insert(cx, &(coin.denom.clone(), *to))?;
        }
        set_balance(cx, to, &coin.denom, amount::add(held, coin.amount)?)?;
    }
    Ok(())
}

/// Stores a balance that was or becomes more than zero.
fn set_balance(cx: &mut Ctx<'_>, address: &Address, denom: &str, amount: u128) -> Result<()> {
    let key = (*address, denom.to_owned());
    if amount == 0 {
        OWNERS.remove(cx, &(denom.to_owned(), *address))?;
        return BALANCES.remove(cx, &key);
    }
    BALANCES.set(cx, &key, &amount)
}

/// The supply is the sum of all balances, no zero is stored, and owners are indexed.
fn invariants(kv: &dyn KvRead) -> Result<()> {
    let mut sums: BTreeMap<String, u128> = BTreeMap::new();
    let mut balances = 0usize;
    for entry in BALANCES.iter(kv, Walk::FORWARD) {
        let ((address, denom), amount) = entry?;
        if amount == 0 || !OWNERS.has(kv, &(denom.clone(), address))? {
            return Err(Error::fault(format!(
                "bank: balance {amount}{denom} of {address} is zero or not indexed"
            )));
        }
        let sum = sums.entry(denom).or_default();
        *sum = amount::add(*sum, amount).map_err(Error::fault)?;
        balances = balances.saturating_add(1);
    }
    let owners = OWNERS.iter(kv, Walk::FORWARD).count();
    if owners != balances {
        return Err(Error::fault(format!("bank: {owners} owners are indexed for {balances} balances")));
    }
    let supply: BTreeMap<String, u128> = SUPPLY.iter(kv, Walk::FORWARD).collect::<Result<_>>()?;
    if supply != sums {
        return Err(Error::fault(format!("bank: supply {supply:?} is not the sum of balances {sums:?}")));
    }
    Ok(())
}
