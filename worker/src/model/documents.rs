//! JSON documents that lie beside weights: bounded in size, an object's keys unique.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::{invalid, within, ModelError, Result};

/// Most keys of an object that names tensors or tokens.
const MAX_KEYS: usize = 1 << 20;

/// Reads a document of at most `max` bytes; `name` is the file's.
pub fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8], max: u64) -> Result<T> {
    within(format!("length of {name}"), bytes.len() as u64, 2, max)?;
    serde_json::from_slice(bytes).map_err(|e| invalid(name, e, "must be its JSON"))
}

/// An object whose keys are unique, which JSON itself does not ask for.
#[derive(Clone, Debug)]
pub struct Unique<T>(pub BTreeMap<String, T>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Unique(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Keys<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
            type Value = Unique<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Unique<T>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    if entries.len() == MAX_KEYS {
                        return Err(A::Error::custom(format!("more than {MAX_KEYS} keys")));
                    }
                    if let Some(key) = entries.insert(key.clone(), value).map(|_| key) {
                        return Err(A::Error::custom(format!("key {key:?} occurs twice")));
                    }
                }
                Ok(Unique(entries))
            }
        }
        deserializer.deserialize_map(Keys(PhantomData))
    }
}

/// A document of settings, each read by name.
#[derive(Debug)]
pub struct Settings {
    name: &'static str,
    values: BTreeMap<String, Value>,
}

impl Settings {
    pub fn parse(name: &'static str, bytes: &[u8], max: u64) -> Result<Settings> {
        Ok(Settings { name, values: parse::<Unique<Value>>(name, bytes, max)?.0 })
    }

    /// The object under `key`, as settings of its own.
    pub fn object(&self, key: &str) -> Result<Option<Settings>> {
        let object = |value: &Value| value.as_object().cloned();
        let object = self.get(key, "an object", object)?;
        Ok(object.map(|values| Settings { name: self.name, values: values.into_iter().collect() }))
    }

    /// Where a value stands, for an error.
    pub fn field(&self, key: &str) -> String {
        format!("{key} of {}", self.name)
    }

    /// The keys that say something: null and false are an absent feature.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Value)> {
        let said = |value: &&Value| !matches!(value, Value::Null | Value::Bool(false));
        self.values.iter().filter(move |(_, value)| said(value)).map(|(key, value)| (key.as_str(), value))
    }

    /// Whether there is such a key, be it null.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The value under `key` as `read` takes it; None where there is none, or null.
    pub fn get<T>(&self, key: &str, want: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => {
                    let brief: String = value.to_string().chars().take(60).collect();
                    Err(invalid(self.field(key), brief, format!("must be {want}")))
                }
            },
        }
    }

    pub fn integer(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "an integer, 0 to 4294967295", |v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
    }

    /// A number, rounded to f32.
    pub fn float(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a number", |v| v.as_f64().map(|x| x as f32).filter(|x| x.is_finite()))
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", Value::as_bool)
    }

    pub fn string(&self, key: &str) -> Result<Option<String>> {
        self.get(key, "a string", |v| v.as_str().map(str::to_string))
    }

    /// One id, or a list of ids.
    pub fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = self.get(key, "an id, or a list of ids", |v| match v {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// A value that must be there.
    pub fn required<T>(&self, key: &str, value: Result<Option<T>>) -> Result<T> {
        value?.ok_or_else(|| ModelError::missing(self.field(key)))
    }
}
