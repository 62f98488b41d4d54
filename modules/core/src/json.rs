//! Genesis sections are JSON as the Cosmos SDK writes it: 64-bit numbers, amounts, ratios and addresses are strings.

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::{errors, Error, Result};

/// Reads the genesis section of `module`.
pub fn parse<T: DeserializeOwned>(module: &str, section: &serde_json::Value) -> Result<T> {
    T::deserialize(section).map_err(|e| errors::invalid_request(format!("genesis of {module}: {e}")))
}

/// Writes a genesis section.
pub fn to_value<T: Serialize>(section: &T) -> Result<serde_json::Value> {
    serde_json::to_value(section).map_err(Error::fault)
}

/// A value as its text, for `#[serde(with = "json::text")]`: u64, u128, `Dec`, `Address`.
pub mod text {
    use std::borrow::Cow;
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{de::Error, Deserialize, Deserializer, Serializer};

    /// Writes the text.
    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    /// Reads the text; a number without quotes is refused, as it may have lost digits on its way here.
    pub fn deserialize<'de, T, D>(from: D) -> std::result::Result<T, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        let text = Cow::<str>::deserialize(from)?;
        text.parse().map_err(|e| D::Error::custom(format!("{text:?}: {e}")))
    }
}

/// An operator's address, `dnvaloper1...`, for `#[serde(with = "json::operator")]`.
pub mod operator {
    use deepnode_tx::Address;
    use serde::{Deserializer, Serializer};

    /// Writes the operator form.
    pub fn serialize<S: Serializer>(value: &Address, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(&value.to_operator())
    }

    /// Reads the operator form.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Address, D::Error> {
        super::read(from, Address::parse_operator)
    }
}

/// A [`Time`](crate::Time) in RFC 3339, for `#[serde(with = "json::time")]`.
pub mod time {
    use deepnode_proto::Timestamp;
    use serde::{Deserializer, Serializer};

    use crate::Time;

    /// Writes RFC 3339 in UTC.
    pub fn serialize<S: Serializer>(value: &Time, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(&value.to_proto())
    }

    /// Reads RFC 3339.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Time, D::Error> {
        super::read(from, |text| {
            let time = text.parse::<Timestamp>().ok().and_then(|t| Time::from_proto(&t));
            time.ok_or("must be an RFC 3339 time from 1970 to 2554")
        })
    }
}

/// Whole seconds as protobuf's JSON has a duration, "60s", for `#[serde(with = "json::seconds")]`.
pub mod seconds {
    use serde::{Deserializer, Serializer};

    /// Writes "60s".
    pub fn serialize<S: Serializer>(value: &u64, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value}s"))
    }

    /// Reads "60s".
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<u64, D::Error> {
        super::read(from, |text| {
            let digits = text.strip_suffix('s').filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
            digits.and_then(|t| t.parse().ok()).ok_or("must be whole seconds, as \"60s\"")
        })
    }
}

/// Bytes in base64, for `#[serde(with = "json::base64")]`: `Vec<u8>`, `[u8; 32]`.
pub mod base64 {
    use base64::engine::general_purpose::STANDARD;
    use base64::Engine;
    use serde::{Deserializer, Serializer};

    /// Writes base64 with padding.
    pub fn serialize<S: Serializer>(value: &impl AsRef<[u8]>, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(value))
    }

    /// Reads base64 with padding, as many bytes as the type has.
    pub fn deserialize<'de, T, D>(from: D) -> std::result::Result<T, D::Error>
    where
        T: TryFrom<Vec<u8>>,
        D: Deserializer<'de>,
    {
        super::read(from, |text| {
            let bytes = STANDARD.decode(text).map_err(|e| e.to_string())?;
            let count = bytes.len();
            T::try_from(bytes).map_err(|_| format!("{count} bytes are not the number that is expected"))
        })
    }
}

/// [`Coins`](crate::Coins) as a list of `{denom, amount}`, for `#[serde(with = "json::coins")]`.
pub mod coins {
    use serde::{de::Error, Deserialize, Deserializer, Serialize, Serializer};

    use crate::{Coin, Coins};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        denom: String,
        #[serde(with = "super::text")]
        amount: u128,
    }

    /// Writes by ascending denom.
    pub fn serialize<S: Serializer>(value: &Coins, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_seq(value.iter().map(|c| Entry { denom: c.denom, amount: c.amount }))
    }

    /// Reads what a message may hold: ascending denoms, positive amounts.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Coins, D::Error> {
        let entries = Vec::<Entry>::deserialize(from)?;
        let coins: Vec<_> = entries.into_iter().map(|e| Coin::new(e.amount, e.denom).to_proto()).collect();
        Coins::from_proto("coins", &coins).map_err(D::Error::custom)
    }
}

/// Something that need not be there, as its text or "", for `#[serde(with = "json::text_or_empty")]`.
pub mod text_or_empty {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserializer, Serializer};

    /// Writes the text, or "".
    pub fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_str(""),
        }
    }

    /// Reads the text; none if it is empty.
    pub fn deserialize<'de, T, D>(from: D) -> std::result::Result<Option<T>, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        super::read(from, |text| (!text.is_empty()).then(|| text.parse()).transpose())
    }
}

/// Reads a text with `parse`; an error shows its beginning.
fn read<'de, T, E, D>(
    from: D,
    parse: impl FnOnce(&str) -> std::result::Result<T, E>,
) -> std::result::Result<T, D::Error>
where
    E: std::fmt::Display,
    D: serde::Deserializer<'de>,
{
    let text = <std::borrow::Cow<'_, str> as serde::Deserialize>::deserialize(from)?;
    parse(&text).map_err(|e| {
        let shown: String = text.chars().take(100).collect();
        serde::de::Error::custom(format!("{shown:?}: {e}"))
    })
}

#[cfg(test)]
mod tests {
    use deepnode_tx::Address;
    use serde::{Deserialize, Serialize};

    use crate::{Coin, Coins, Time};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct All {
        #[serde(with = "super::operator")]
        operator: Address,
        #[serde(with = "super::time")]
        time: Time,
        #[serde(with = "super::seconds")]
        seconds: u64,
        #[serde(with = "super::base64")]
        bytes: [u8; 2],
        #[serde(with = "super::coins")]
        coins: Coins,
        #[serde(with = "super::text_or_empty")]
        some: Option<u64>,
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let all = All {
            operator: Address::module("gov"),
            time: Time(1_700_000_000_500_000_000),
            seconds: 60,
            bytes: [1, 2],
            coins: Coins::from(Coin::udn(u128::MAX)),
            some: None,
        };
        let json = serde_json::json!({
            "operator": Address::module("gov").to_operator(),
            "time": "2023-11-14T22:13:20.500Z",
            "seconds": "60s",
            "bytes": "AQI=",
            "coins": [{"denom": "udn", "amount": u128::MAX.to_string()}],
            "some": "",
        });
        assert_eq!(serde_json::to_value(&all).unwrap(), json);
        assert_eq!(serde_json::from_value::<All>(json.clone()).unwrap(), all);
        for (field, bad, why) in [
            ("operator", serde_json::json!(Address::module("gov").to_string()), "expected \"dnvaloper\""),
            ("time", "1969-12-31T23:59:59Z".into(), "\"1969-12-31T23:59:59Z\": must be an RFC 3339 time"),
            ("seconds", "1.5s".into(), "\"1.5s\": must be whole seconds"),
            ("seconds", "+1s".into(), "must be whole seconds"),
            ("seconds", 60.into(), "invalid type"),
            ("bytes", "AQID".into(), "3 bytes are not the number that is expected"),
            ("bytes", "?".into(), "Invalid symbol"),
            ("coins", serde_json::json!([{"denom": "udn", "amount": "0"}]), "must be positive"),
            ("some", "x".into(), "\"x\": invalid digit"),
        ] {
            let mut broken = json.clone();
            broken[field] = bad;
            let error = serde_json::from_value::<All>(broken).unwrap_err().to_string();
            assert!(error.contains(why), "{field}: {error}");
        }
    }
}
