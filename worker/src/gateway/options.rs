//! What chat and completions have in common: how much to generate, how to sample, when to stop.

use serde_json::{json, Value};

use super::errors::{shown, ApiError, Result};
use super::fields::Fields;
use super::scheduler::Job;
use crate::canon::sample::MAX_TOP_K;
use crate::canon::SamplingParams;

/// Most answers to one request.
const MAX_CHOICES: i64 = 8;
const MAX_STOPS: usize = 4;
/// Greatest stop string, in bytes.
const MAX_STOP: usize = 1024;
/// Domain of the seeds.
const SEED_CONTEXT: &str = "DeepNode gateway 2026 sampling seed";
/// Drawn seeds are below this, so that every JSON reader keeps them exact.
const DRAWN: u64 = 1 << 53;

/// Tokens with a logprob in an answer that is no stream, over all choices and with their alternatives: each takes some
/// hundred bytes until the answer is written.
const MAX_SCORED: usize = 1 << 17;

/// The 32 bytes that sample choice `choice` of a request with this seed: BLAKE3's derive_key under the context
/// "DeepNode gateway 2026 sampling seed", of the seed (i64 little-endian) and the choice (u32 little-endian).
pub fn seed(number: i64, choice: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(SEED_CONTEXT);
    hasher.update(&number.to_le_bytes()).update(&choice.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// A seed for a request that brings none.
pub fn draw_seed() -> std::io::Result<i64> {
    let mut bytes = [0; 8];
    getrandom::getrandom(&mut bytes).map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok((u64::from_le_bytes(bytes) % DRAWN) as i64)
}

/// Millionths of a temperature from 0 or 0.01 on; none for another.
pub fn temperature_micros(temperature: f64) -> Option<u32> {
    (temperature == 0.0 || (0.01..=2.0).contains(&temperature)).then(|| (temperature * 1e6).round() as u32)
}

/// Millionths of a nucleus; none outside 0 to 1. One of 0 keeps the likeliest token, as the smallest does.
pub fn top_p_micros(top_p: f64) -> Option<u32> {
    (0.0..=1.0).contains(&top_p).then(|| ((top_p * 1e6).round() as u32).max(1))
}

pub const TEMPERATURE_BOUND: &str = "0 (greedy) or a number from 0.01 to 2";
pub const TOP_P_BOUND: &str = "a number from 0 to 1";

/// How a request is to be answered.
#[derive(Debug)]
pub struct Options {
    /// What `max_output` is called in the request.
    pub limit_field: &'static str,
    pub max_output: Option<u32>,
    /// Tokens where the request does not say how many; all that fit by default.
    pub default_output: Option<u32>,
    sampling: SamplingParams,
    /// None at temperature 0.
    pub seed: Option<i64>,
    pub choices: u32,
    pub stop: Vec<String>,
    /// How many of the likeliest tokens to tell beside each token, where probabilities are wanted at all.
    pub logprobs: Option<usize>,
    pub stream: bool,
    pub include_usage: bool,
}

impl Options {
    /// Takes the fields that both endpoints have.
    pub fn take(fields: &mut Fields) -> Result<Self> {
        let temperature = fields
            .number("temperature", TEMPERATURE_BOUND, |t| temperature_micros(t).is_some())?
            .and_then(temperature_micros);
        let top_p =
            fields.number("top_p", TOP_P_BOUND, |p| top_p_micros(p).is_some())?.and_then(top_p_micros);
        let top_k = fields.integer("top_k", 0, MAX_TOP_K.into())?;
        let given = fields.integer("seed", i64::MIN, i64::MAX)?;
        let sampling = SamplingParams {
            temperature_micros: temperature.unwrap_or(1_000_000),
            top_p_micros: top_p.unwrap_or(1_000_000),
            top_k: top_k.map_or(MAX_TOP_K, |k| k as u32),
            seed: [0; 32],
        };
        let seed = match (sampling.temperature_micros, given) {
            (0, _) => None,
            (_, Some(seed)) => Some(seed),
            (_, None) => Some(draw_seed().map_err(ApiError::internal)?),
        };
        let choices = fields.integer("n", 1, MAX_CHOICES)?.unwrap_or(1) as u32;
        let stop = stop(fields)?;
        let stream = fields.flag("stream")?;
        let include_usage = stream_options(fields, stream)?;

        fields.only("frequency_penalty", &[json!(0)], "the canonical sampler has no penalties")?;
        fields.only("presence_penalty", &[json!(0)], "the canonical sampler has no penalties")?;
        fields.only("logit_bias", &[json!({})], "the canonical sampler has no biases")?;
        fields.ignore(&[
            "user",
            "metadata",
            "store",
            "service_tier",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
        ]);
        Ok(Self {
            limit_field: "max_tokens",
            max_output: None,
            default_output: None,
            sampling,
            seed,
            choices,
            stop,
            logprobs: None,
            stream,
            include_usage,
        })
    }

    /// Most tokens of a choice whose logprobs come in one piece with those of all others; none where they do not.
    fn scored_at_once(&self) -> Option<u32> {
        let top = self.logprobs.filter(|_| !self.stream)?;
        Some((MAX_SCORED / self.choices as usize / (top + 1)) as u32)
    }

    /// What to compute for this prompt: its output fits the context.
    pub fn job(&self, prompt: Vec<u32>, prompt_field: &str, context: u32) -> Result<Job> {
        let tokens = prompt.len();
        if tokens == 0 {
            return Err(ApiError::invalid(prompt_field, "empty", "at least one token"));
        }
        let room = (context as usize).saturating_sub(tokens) as u32;
        if room == 0 {
            let message = format!("{prompt_field} has {tokens} tokens, the context is {context}");
            return Err(ApiError::context(prompt_field, format!("{message} with the answer")));
        }
        let most = self.scored_at_once().unwrap_or(room);
        let default = self.default_output.unwrap_or(room).min(room).min(most);
        let max_output = self.max_output.unwrap_or(default);
        if max_output > room {
            let field = self.limit_field;
            let message = format!(
                "{field} is {max_output}, must be at most {room}: the context is {context} and {prompt_field} has {tokens} tokens"
            );
            return Err(ApiError::context(field, message));
        }
        if max_output > most {
            let bound = format!("at most {most} with these logprobs and n, or stream");
            return Err(ApiError::invalid(self.limit_field, max_output, bound));
        }
        let params = |choice| match self.seed {
            Some(number) => SamplingParams { seed: seed(number, choice), ..self.sampling },
            None => self.sampling,
        };
        let choices = (0..self.choices).map(params).collect();
        Ok(Job { prompt, choices, max_output, stop: self.stop.clone(), logprobs: self.logprobs })
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>> {
    let bound = format!("a string, or up to {MAX_STOPS}, of 1 to {MAX_STOP} bytes each");
    let Some(value) = fields.take("stop") else { return Ok(Vec::new()) };
    let strings = match &value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(list) => list.iter().map(|s| s.as_str().map(str::to_string)).collect(),
        _ => None,
    };
    let fits = |s: &String| (1..=MAX_STOP).contains(&s.len());
    strings
        .filter(|list| list.len() <= MAX_STOPS && list.iter().all(fits))
        .ok_or_else(|| ApiError::invalid("stop", shown(&value), bound))
}

/// Whether the usage comes at a stream's end.
fn stream_options(fields: &mut Fields, stream: bool) -> Result<bool> {
    let Some(value) = fields.take("stream_options") else { return Ok(false) };
    if !stream {
        return Err(ApiError::invalid("stream_options", shown(&value), "absent where stream is not true"));
    }
    let mut options = Fields::of("stream_options", value)?;
    let include_usage = options.flag("include_usage")?;
    // Padding against observers of the network, which would not change the answer.
    options.ignore(&["include_obfuscation"]);
    options.finish()?;
    Ok(include_usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published in docs/gateway.md: who knows the seed can replay the answer.
    #[test]
    fn seeds_are_pinned() {
        let hex = |number, choice| hex::encode(&seed(number, choice)[..8]);
        let mut plain = Vec::from((-7i64).to_le_bytes());
        plain.extend(3u32.to_le_bytes());
        assert_eq!(seed(-7, 3), blake3::derive_key(SEED_CONTEXT, &plain));
        assert_eq!(hex(42, 0), "4a8d106ec7661207");
        assert!((0..100).all(|_| (0..1 << 53).contains(&draw_seed().unwrap())));
    }

    #[test]
    fn micros() {
        assert_eq!([0.0, 0.01, 0.7, 2.0].map(temperature_micros), [0, 10_000, 700_000, 2_000_000].map(Some));
        assert!([-1.0, 0.009, 2.01, f64::NAN, f64::INFINITY]
            .iter()
            .all(|t| temperature_micros(*t).is_none()));
        assert_eq!([0.0, 1e-9, 0.9, 1.0].map(top_p_micros), [1, 1, 900_000, 1_000_000].map(Some));
        assert!([-0.1, 1.1, f64::NAN].iter().all(|p| top_p_micros(*p).is_none()));
    }
}
