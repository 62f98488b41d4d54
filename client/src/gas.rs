//! Gas limits and prices, without floats.

use crate::ClientError;
use std::fmt;
use std::str::FromStr;

/// How the gas limit of a transaction is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gas {
    /// What a simulation used, times this percentage. State may change before the transaction runs, hence a margin.
    Auto { percent: u64 },
    /// No simulation.
    Limit(u64),
}

impl Default for Gas {
    fn default() -> Self {
        Self::Auto { percent: 140 }
    }
}

/// "auto" or a limit.
impl FromStr for Gas {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        if text == "auto" {
            return Ok(Self::default());
        }
        match text.parse() {
            Ok(limit) if limit > 0 => Ok(Self::Limit(limit)),
            _ => Err(ClientError::Input(format!("gas {text:?}: expected \"auto\" or a number above 0"))),
        }
    }
}

/// A price for one unit of gas, such as `0.025udn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GasPrice {
    /// In units of 10^-18 of the denomination.
    atto: u128,
    pub denom: String,
}

const ATTO: u128 = 1_000_000_000_000_000_000;

impl GasPrice {
    /// The least fee that pays for `gas`: ceil(price x gas).
    pub fn fee(&self, gas: u64) -> Result<u128, ClientError> {
        self.atto
            .checked_mul(gas.into())
            .map(|atto| atto.div_ceil(ATTO))
            .ok_or_else(|| ClientError::Input(format!("the fee for {gas} gas at {self} is too large")))
    }
}

impl FromStr for GasPrice {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let error = |why: &str| {
            ClientError::Input(format!(
                "gas price {text:?}: {why}, expected an amount and a denomination such as 0.025udn"
            ))
        };
        let split =
            text.find(|c: char| c != '.' && !c.is_ascii_digit()).ok_or_else(|| error("no denomination"))?;
        let (number, denom) = text.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.len() > 18 || fraction.contains('.') {
            return Err(error("not a decimal of at most 18 places"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | ':' | '.' | '_' | '-');
        if !(3..=128).contains(&denom.len())
            || !denom.starts_with(|c: char| c.is_ascii_alphabetic())
            || !denom.chars().all(plain)
        {
            return Err(error("not a denomination"));
        }
        let atto = whole
            .parse::<u128>()
            .ok()
            .and_then(|whole| whole.checked_mul(ATTO))
            .and_then(|whole| whole.checked_add(format!("{fraction:0<18}").parse().ok()?))
            .ok_or_else(|| error("too large"))?;
        Ok(Self { atto, denom: denom.into() })
    }
}

impl fmt::Display for GasPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:018}", self.atto % ATTO);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{}{point}{fraction}{}", self.atto / ATTO, self.denom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fees_round_up() {
        let price: GasPrice = "0.025udn".parse().unwrap();
        assert_eq!(
            (price.fee(80_000).unwrap(), price.fee(80_001).unwrap(), price.fee(0).unwrap()),
            (2_000, 2_001, 0)
        );
        assert_eq!("1udn".parse::<GasPrice>().unwrap().fee(u64::MAX).unwrap(), u64::MAX.into());
        assert!("300000000000000000000udn".parse::<GasPrice>().unwrap().fee(u64::MAX).is_err());
        for bad in [
            "",
            "udn",
            "1",
            "1.udn",
            ".5udn",
            "1.2.3udn",
            "-1udn",
            "1 udn",
            "1u",
            "1.0000000000000000001udn",
            "0.1udn,0.2x",
        ] {
            let error = bad.parse::<GasPrice>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("gas price {bad:?}")), "{error}");
        }
        assert_eq!("auto".parse::<Gas>().unwrap(), Gas::Auto { percent: 140 });
        assert!("0".parse::<Gas>().is_err() && "-3".parse::<Gas>().is_err());
    }

    proptest! {
        #[test]
        fn prices_read_back(atto in 0u128..1 << 100, denom in "[a-z][a-z0-9/]{2,20}") {
            let price = GasPrice { atto, denom };
            prop_assert_eq!(price.to_string().parse::<GasPrice>().unwrap(), price);
        }
    }
}
