//! `genesis`: what a network starts with.

use std::path::Path;

use anyhow::{bail, Context, Result};
use clap::Subcommand;
use deepnode_tx::Address;
use serde_json::{json, Value};

use super::KeyringArgs;
use crate::comet::Home;

#[derive(Subcommand)]
pub enum Genesis {
    /// Give an account (an address, or a key's name) coins, such as 1000000udn.
    Account {
        who: String,
        amount: String,
        #[command(flatten)]
        keyring: KeyringArgs,
    },
    /// Make this node a validator: its operator's key, and the stake that it delegates to itself.
    Validator {
        operator: String,
        stake: String,
        #[command(flatten)]
        keyring: KeyringArgs,
    },
}

impl Genesis {
    pub fn run(self, dir: &Path) -> Result<()> {
        let home = Home::open(dir)?;
        let mut genesis = home.genesis()?;
        match self {
            Genesis::Account { who, amount, keyring } => {
                let address = address(&who, &keyring, dir)?;
                add_account(&mut genesis, &address, udn(&amount)?)?;
            }
            Genesis::Validator { operator, stake, keyring } => {
                let address = address(&operator, &keyring, dir)?;
                let key = home.validator_key()?;
                let moniker = home.moniker()?;
                add_validator(&mut genesis, &address, &key.to_bytes(), &moniker, udn(&stake)?)?;
            }
        }
        home.set_genesis(&genesis)?;
        Ok(())
    }
}

fn address(who: &str, keyring: &KeyringArgs, dir: &Path) -> Result<Address> {
    match who.parse() {
        Ok(address) => Ok(address),
        Err(_) => Ok(keyring.open(dir)?.show(who)?.address),
    }
}

fn udn(text: &str) -> Result<u128> {
    let amount = text.strip_suffix("udn").and_then(|a| a.parse::<u128>().ok()).filter(|a| *a > 0);
    amount.with_context(|| format!("amount {text:?} must be a positive number of udn, such as 1000000udn"))
}

/// Adds a balance, and to the supply if the file states one.
pub fn add_account(genesis: &mut Value, address: &Address, amount: u128) -> Result<()> {
    let balances = genesis["app_state"]["bank"]["balances"].as_array_mut();
    let balances = balances.context("the genesis file has no app_state.bank.balances")?;
    if balances.iter().any(|b| b["address"] == address.to_string()) {
        bail!("{address} has a balance already");
    }
    balances.push(json!({
        "address": address.to_string(),
        "coins": [{ "denom": "udn", "amount": amount.to_string() }],
    }));
    Ok(())
}

/// Adds a validator whose stake comes out of its operator's balance.
pub fn add_validator(
    genesis: &mut Value,
    operator: &Address,
    key: &[u8],
    moniker: &str,
    stake: u128,
) -> Result<()> {
    let validators = genesis["app_state"]["staking"]["genesis_validators"].as_array_mut();
    let validators = validators.context("the genesis file has no app_state.staking.genesis_validators")?;
    if validators.iter().any(|v| v["operator"] == operator.to_string()) {
        bail!("{operator} has a validator already");
    }
    let key = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, key);
    validators.push(json!({
        "moniker": moniker,
        "operator": operator.to_string(),
        "consensus_pubkey": key,
        "self_delegation": stake.to_string(),
    }));
    Ok(())
}
