//! API keys.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{bail, Context};
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::errors::ApiError;
use super::Gateway;

/// Fewest bytes of a key.
const MIN_KEY: usize = 16;
const MAX_KEYS: usize = 4096;

/// Keys of which a request must bring one; none stands for no authentication. Only their digests are kept.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Vec<blake3::Hash>);

impl ApiKeys {
    /// Reads a file of keys, one a line; empty lines and those that begin with # do not count.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(file)?;
        if std::fs::metadata(path).with_context(file)?.mode() & 0o007 != 0 {
            tracing::warn!(path = %path.display(), "everybody on this machine can read the API keys (chmod 600)");
        }
        Self::parse(&text).with_context(file)
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut keys = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if key.len() < MIN_KEY || !key.bytes().all(|b| b.is_ascii_graphic()) {
                // The key itself is not repeated: this ends up in logs.
                bail!(
                    "the key in line {} has {} bytes, must be {MIN_KEY} or more printable ASCII ones without spaces",
                    n + 1,
                    key.len()
                );
            }
            keys.push(blake3::hash(key.as_bytes()));
        }
        if keys.is_empty() || keys.len() > MAX_KEYS {
            bail!("there are {} keys, must be 1 to {MAX_KEYS}", keys.len());
        }
        Ok(Self(keys))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key` is one of them. The time it takes depends on its length alone: digests are compared, each in
    /// constant time, and always all.
    fn contains(&self, key: &str) -> bool {
        let key = blake3::hash(key.as_bytes());
        self.0.iter().fold(false, |found, known| found | (*known == key))
    }
}

/// Lets a request pass that brings a key, where there are any.
pub async fn require(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let keys = &gateway.settings.keys;
    if keys.is_empty() {
        return next.run(request).await;
    }
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    match bearer {
        Some(key) if keys.contains(key) => next.run(request).await,
        Some(_) => ApiError::unauthorized("the API key is not known here").into_response(),
        None => ApiError::unauthorized("an API key is needed, as Authorization: Bearer KEY").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_line_by_line() {
        let keys = ApiKeys::parse("# ours\n\nsk-0123456789abcdef\r\nsk-another-key-here\n").unwrap();
        assert!(keys.contains("sk-0123456789abcdef") && keys.contains("sk-another-key-here"));
        assert!(!keys.contains("sk-0123456789abcde") && !keys.contains("") && !keys.contains("# ours"));
        let refused = |text: &str| ApiKeys::parse(text).unwrap_err().to_string();
        assert_eq!(refused("\n# none\n"), "there are 0 keys, must be 1 to 4096");
        assert!(refused("short").contains("line 1 has 5 bytes"));
        assert!(!refused("0123456789 abcdef").contains("abcdef"));
    }
}
