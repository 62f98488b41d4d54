//! The fee: who pays, how much this node asks, and its way to the fee collector.

use std::str::FromStr;

use deepnode_core::coin::check_denom;
use deepnode_core::{errors, Address, Coin, Coins, Ctx, Dec, Event, Result};
use deepnode_cosmos::{auth, bank};
use deepnode_tx::Tx;

use super::{Config, Mode};

/// Gas that paying a fee takes; charged in Simulate where a client has not set the fee yet.
const SIMULATED: u64 = 14_000;

/// A fee that was paid.
pub struct Fee {
    pub coins: Coins,
    pub payer: Address,
}

/// Takes the fee from its payer: the account that the fee names, else the first signer.
pub fn deduct(cx: &mut Ctx<'_>, tx: &Tx, signers: &[Address], mode: Mode, config: &Config) -> Result<Fee> {
    let fee = tx.auth_info.fee.clone().unwrap_or_default();
    let named = |field: &str, text: &str| {
        Address::parse(text).map_err(|e| errors::invalid_address(format!("{field}: {e}")))
    };
    // A payer that is named is among the signers.
    let payer = match (fee.payer.as_str(), signers) {
        ("", [first, ..]) => *first,
        (text, _) => named("fee.payer", text)?,
    };
    if !fee.granter.is_empty() {
        let granter = named("fee.granter", &fee.granter)?;
        if granter != payer {
            return Err(errors::not_supported(format!("fee.granter {granter}: allowances of feegrant")));
        }
    }
    let coins = coins(&fee.amount)?;
    if mode.is_mempool() {
        config.min_gas_prices.check(&coins, fee.gas_limit)?;
    }
    if auth::account(cx, &payer)?.is_none() {
        return Err(errors::unknown_address(format!("fee payer address: {payer} does not exist")));
    }
    if !coins.is_empty() {
        bank::send(cx, &payer, &Address::module(auth::FEE_COLLECTOR), &coins)?;
    } else if mode == Mode::Simulate {
        cx.consume_gas(SIMULATED, "fee")?;
    }
    cx.emit(Event::new("tx").with("fee", &coins).with("fee_payer", payer));
    Ok(Fee { coins, payer })
}

/// The coins of a fee. Clients write no fee as an empty list or as zero coins.
fn coins(amount: &[deepnode_proto::cosmos::base::v1beta1::Coin]) -> Result<Coins> {
    if amount.iter().all(|coin| coin.amount == "0") {
        return Ok(Coins::new());
    }
    Coins::from_proto("fee", amount)
}

/// Prices of a unit of gas; a fee that reaches one of them is enough. None means that any fee is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MinGasPrices(Vec<(String, Dec)>);

impl MinGasPrices {
    /// The prices by denomination.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Dec)> {
        self.0.iter().map(|(denom, price)| (denom.as_str(), *price))
    }

    /// Refuses a fee that is below all prices, each times the gas limit and rounded up.
    fn check(&self, fee: &Coins, gas_limit: u64) -> Result<()> {
        let mut required = Coins::new();
        for (denom, price) in &self.0 {
            let least = price.of_ceil(gas_limit.into())?;
            if fee.amount_of(denom) >= least {
                return Ok(());
            }
            required.add(&Coin::new(least, denom.clone()))?;
        }
        if required.is_empty() {
            return Ok(());
        }
        Err(errors::insufficient_fee(format!("insufficient fees; got: {fee} required: {required}")))
    }
}

/// Reads `0.025udn,0.1abc`.
impl FromStr for MinGasPrices {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut prices: Vec<(String, Dec)> = Vec::new();
        for price in text.split(',').map(str::trim).filter(|price| !price.is_empty()) {
            let at = price.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(price.len());
            let (number, denom) = price.split_at(at);
            check_denom("min_gas_prices", denom).map_err(|e| e.to_string())?;
            let number: Dec = number.parse().map_err(|e| format!("min_gas_prices {price:?}: {e}"))?;
            if prices.iter().any(|(known, _)| known == denom) {
                return Err(format!("min_gas_prices names {denom} twice"));
            }
            prices.push((denom.into(), number));
        }
        Ok(MinGasPrices(prices))
    }
}
