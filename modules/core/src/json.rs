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
