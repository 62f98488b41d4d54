//! API keys, and what each may do.
//!
//! A line of the file is a key, and behind it what limits its bearer: `name=TEXT`, `requests_per_minute=N`,
//! `udn_per_day=N`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{bail, Context};
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;

use super::door::Door;
use super::errors::ApiError;

/// Fewest bytes of a key.
const MIN_KEY: usize = 16;
const MAX_KEYS: usize = 4096;
/// Greatest name of a key's bearer, bytes.
const MAX_NAME: usize = 64;

/// Who asks: the bearer of an API key, or whoever reaches a gateway without keys.
#[derive(Debug, Default)]
pub struct Caller {
    /// The key's digest begins with it where the file gives no name.
    pub name: String,
    /// What its requests may cost on one day of UTC, where they cost anything.
    pub udn_per_day: Option<u64>,
    pub(super) pace: Option<Pace>,
}

/// At most so many requests a minute, of which all may come at once.
#[derive(Debug)]
pub(super) struct Pace {
    per_minute: u32,
    /// Requests that may come now, and when that was so.
    bucket: Mutex<(f64, Instant)>,
}

impl Pace {
    fn new(per_minute: u32) -> Self {
        Self { per_minute, bucket: Mutex::new((per_minute.into(), Instant::now())) }
    }

    /// Takes one request, or says after how many seconds there is one.
    fn take(&self, now: Instant) -> Result<(), u32> {
        let per_minute = f64::from(self.per_minute);
        let mut bucket = self.bucket.lock();
        let (left, since) = *bucket;
        let passed = now.saturating_duration_since(since).as_secs_f64();
        let left = (left + passed * per_minute / 60.0).min(per_minute);
        if left >= 1.0 {
            *bucket = (left - 1.0, now);
            return Ok(());
        }
        *bucket = (left, now);
        Err(((1.0 - left) * 60.0 / per_minute).ceil() as u32)
    }
}

/// Keys of which a request must bring one; none stands for no authentication. Only their digests are kept.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Vec<(blake3::Hash, Arc<Caller>)>);

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
        let mut keys: Vec<(blake3::Hash, Arc<Caller>)> = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let Some(key) = words.next().filter(|key| !key.starts_with('#')) else { continue };
            let n = n + 1;
            if key.len() < MIN_KEY || !key.bytes().all(|b| b.is_ascii_graphic()) {
                // The key itself is not repeated: this ends up in logs.
                bail!(
                    "the key in line {n} has {} bytes, must be {MIN_KEY} or more printable ASCII ones",
                    key.len()
                );
            }
            let digest = blake3::hash(key.as_bytes());
            let mut caller = Caller { name: digest.to_hex()[..8].into(), ..Caller::default() };
            for word in words {
                limit(&mut caller, word).with_context(|| format!("line {n}, behind the key"))?;
            }
            if keys.iter().any(|(other, named)| *other == digest || named.name == caller.name) {
                bail!("the key in line {n}, or its name, is there twice");
            }
            keys.push((digest, caller.into()));
        }
        if keys.is_empty() || keys.len() > MAX_KEYS {
            bail!("there are {} keys, must be 1 to {MAX_KEYS}", keys.len());
        }
        Ok(Self(keys))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some key has an allowance of udn, which means something only where requests cost any.
    pub fn have_allowances(&self) -> bool {
        self.0.iter().any(|(_, caller)| caller.udn_per_day.is_some())
    }

    /// The bearer of `key`. The time it takes depends on its length alone: digests are compared, each in constant
    /// time, and always all.
    fn find(&self, key: &str) -> Option<&Arc<Caller>> {
        let key = blake3::hash(key.as_bytes());
        self.0.iter().fold(None, |found, (known, caller)| if *known == key { Some(caller) } else { found })
    }
}

/// What a word behind a key says of its bearer. The word is not repeated: it may be a part of the key.
fn limit(caller: &mut Caller, word: &str) -> anyhow::Result<()> {
    let (what, value) = word.split_once('=').unwrap_or_default();
    match what {
        "name" if (1..=MAX_NAME).contains(&value.len()) => caller.name = value.into(),
        "name" => bail!("name has {} bytes, must be 1 to {MAX_NAME}", value.len()),
        "udn_per_day" => caller.udn_per_day = Some(value.parse().context("udn_per_day")?),
        "requests_per_minute" => match value.parse().context("requests_per_minute")? {
            0 => bail!("requests_per_minute is 0, must be at least 1"),
            n => caller.pace = Some(Pace::new(n)),
        },
        _ => bail!("known are name=, udn_per_day= and requests_per_minute="),
    }
    Ok(())
}

/// Lets a request pass that brings a key, where there are any, and tells the handlers whose it is.
pub async fn require(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let keys = &door.keys;
    if keys.is_empty() {
        request.extensions_mut().insert(Arc::new(Caller { name: "local".into(), ..Caller::default() }));
        return next.run(request).await;
    }
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    let caller = match bearer.map(|key| keys.find(key)) {
        Some(Some(caller)) => caller.clone(),
        Some(None) => return ApiError::unauthorized("the API key is not known here").into_response(),
        None => {
            let message = "an API key is needed, as Authorization: Bearer KEY";
            return ApiError::unauthorized(message).into_response();
        }
    };
    // What is computed counts; looking at models and metrics does not.
    if let Some(pace) = caller.pace.as_ref().filter(|_| request.method() == Method::POST) {
        if let Err(seconds) = pace.take(Instant::now()) {
            return ApiError::too_many(pace.per_minute, seconds).into_response();
        }
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Whose request it is.
pub fn caller(request: &Request) -> Arc<Caller> {
    request.extensions().get::<Arc<Caller>>().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn keys_are_read_line_by_line() {
        let text = "# ours\n\nsk-0123456789abcdef\r\nsk-another-key-here  name=bot udn_per_day=5 requests_per_minute=2\n";
        let keys = ApiKeys::parse(text).unwrap();
        let plain = keys.find("sk-0123456789abcdef").unwrap();
        assert_eq!((plain.name.len(), plain.udn_per_day, plain.pace.is_none()), (8, None, true));
        let bot = keys.find("sk-another-key-here").unwrap();
        assert_eq!((bot.name.as_str(), bot.udn_per_day), ("bot", Some(5)));
        assert!(keys.have_allowances());
        for other in ["sk-0123456789abcde", "", "# ours", "bot"] {
            assert!(keys.find(other).is_none());
        }
        let refused = |text: &str| format!("{:#}", ApiKeys::parse(text).unwrap_err());
        assert_eq!(refused("\n# none\n"), "there are 0 keys, must be 1 to 4096");
        assert!(refused("short").contains("line 1 has 5 bytes"));
        assert!(refused("sk-0123456789abcdef name=x\nsk-another-key-here name=x").contains("line 2"));
        assert!(refused("sk-0123456789abcdef requests_per_minute=0").contains("must be at least 1"));
        // What stands behind the blank may be a part of the key.
        assert!(!refused("0123456789abcdefgh ijklm").contains("ijklm"));
    }

    #[test]
    fn a_pace_lets_its_minute_pass() {
        let pace = Pace::new(2);
        let begin = Instant::now();
        assert_eq!((pace.take(begin), pace.take(begin), pace.take(begin)), (Ok(()), Ok(()), Err(30)));
        let later = begin + Duration::from_secs(31);
        assert_eq!((pace.take(later), pace.take(later)), (Ok(()), Err(29)));
        let much_later = begin + Duration::from_secs(3600);
        assert_eq!([0; 3].map(|_| pace.take(much_later).is_ok()), [true, true, false]);
    }
}
