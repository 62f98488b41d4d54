//! Amounts of a denomination.

use std::collections::BTreeMap;
use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use deepnode_proto::cosmos::base::v1beta1::Coin as ProtoCoin;

use crate::{errors, num, Result};

/// The unit of the chain's token: a millionth of a DN.
pub const UDN: &str = "udn";

/// An amount of one denomination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Coin {
    pub denom: String,
    pub amount: u128,
}

impl Coin {
    /// `amount` of `denom`.
    pub fn new(amount: u128, denom: impl Into<String>) -> Self {
        Coin { denom: denom.into(), amount }
    }

    /// `amount` udn.
    pub fn udn(amount: u128) -> Self {
        Coin::new(amount, UDN)
    }

    /// Checks a coin of a message; `field` names it in the error.
    pub fn from_proto(field: &str, coin: &ProtoCoin) -> Result<Self> {
        check_denom(field, &coin.denom)?;
        let amount = num::amount::parse(&coin.amount)
            .map_err(|e| errors::invalid_coins(format!("{field}.amount {:?}: {e}", coin.amount)))?;
        Ok(Coin { denom: coin.denom.clone(), amount })
    }

    /// A coin of a message that must be udn and more than zero; its amount.
    pub fn positive_udn(field: &str, coin: Option<&ProtoCoin>) -> Result<u128> {
        let coin = coin.ok_or_else(|| errors::invalid_coins(format!("{field} is missing")))?;
        let coin = Coin::from_proto(field, coin)?;
        if coin.denom != UDN {
            return Err(errors::invalid_coins(format!("{field}.denom {:?} must be {UDN}", coin.denom)));
        }
        if coin.amount == 0 {
            return Err(errors::invalid_coins(format!("{field}.amount 0 must be positive")));
        }
        Ok(coin.amount)
    }

    /// As protobuf has it.
    pub fn to_proto(&self) -> ProtoCoin {
        ProtoCoin { denom: self.denom.clone(), amount: self.amount.to_string() }
    }
}

impl fmt::Display for Coin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.amount, self.denom)
    }
}

/// Checks a denomination: a letter, then 2 to 127 of letters, digits and `/:._-`.
pub fn check_denom(field: &str, denom: &str) -> Result<()> {
    let rest = |c: u8| c.is_ascii_alphanumeric() || b"/:._-".contains(&c);
    let good = (3..=128).contains(&denom.len())
        && denom.as_bytes()[0].is_ascii_alphabetic()
        && denom.bytes().all(rest);
    if good {
        return Ok(());
    }
    let shown: String = denom.chars().take(40).collect();
    Err(errors::invalid_coins(format!(
        "{field}.denom {shown:?} must be a letter and 2 to 127 letters, digits or /:._-"
    )))
}

/// Amounts by denomination; none is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Coins(BTreeMap<String, u128>);

impl Coins {
    /// No coins.
    pub fn new() -> Self {
        Coins::default()
    }

    /// Checks the coins of a message: ascending denoms, no duplicate, every amount positive.
    pub fn from_proto(field: &str, coins: &[ProtoCoin]) -> Result<Self> {
        let mut map = BTreeMap::new();
        let mut last: Option<&str> = None;
        for coin in coins {
            let checked = Coin::from_proto(field, coin)?;
            if checked.amount == 0 {
                return Err(errors::invalid_coins(format!(
                    "{field}: amount of {} must be positive",
                    coin.denom
                )));
            }
            if last.is_some_and(|l| l >= coin.denom.as_str()) {
                return Err(errors::invalid_coins(format!("{field}: denoms must ascend, {:?}", coin.denom)));
            }
            last = Some(&coin.denom);
            map.insert(checked.denom, checked.amount);
        }
        Ok(Coins(map))
    }

    /// Adds a coin.
    pub fn add(&mut self, coin: &Coin) -> Result<()> {
        if coin.amount > 0 {
            let amount = self.0.entry(coin.denom.clone()).or_default();
            *amount = amount.checked_add(coin.amount).ok_or_else(|| errors::overflow(&coin.denom))?;
        }
        Ok(())
    }

    /// The amount of `denom`.
    pub fn amount_of(&self, denom: &str) -> u128 {
        self.0.get(denom).copied().unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By ascending denomination.
    pub fn iter(&self) -> impl Iterator<Item = Coin> + '_ {
        self.0.iter().map(|(denom, amount)| Coin { denom: denom.clone(), amount: *amount })
    }

    /// As protobuf has it.
    pub fn to_proto(&self) -> Vec<ProtoCoin> {
        self.iter().map(|c| c.to_proto()).collect()
    }
}

impl From<Coin> for Coins {
    fn from(coin: Coin) -> Self {
        let mut map = BTreeMap::new();
        if coin.amount > 0 {
            map.insert(coin.denom, coin.amount);
        }
        Coins(map)
    }
}

impl fmt::Display for Coins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, coin) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            coin.fmt(f)?;
        }
        Ok(())
    }
}
