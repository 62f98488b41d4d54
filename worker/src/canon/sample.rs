//! The sampler: from logits to a token, as a pure function of the parameters, the seed and the step.

use thiserror::Error;

use super::constants::{PHILOX_M, PHILOX_ROUNDS, PHILOX_W};
use super::ops::{exp, log};

/// Greatest number of candidates, and the number where none is given.
pub const MAX_TOP_K: u32 = 64;
/// Parameters travel as integers of this fraction of one.
const MICROS: u32 = 1_000_000;
/// Least temperature other than 0: 0.01.
const MIN_TEMPERATURE_MICROS: u32 = 10_000;

/// How a token is chosen. The seed is fixed by the chain, so a worker cannot choose tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SamplingParams {
    /// Temperature in millionths: 0 (greedy) or at least 10,000.
    pub temperature_micros: u32,
    /// Nucleus in millionths, at most 1,000,000; 0 where none is given, which keeps all.
    pub top_p_micros: u32,
    /// Candidates, at most 64; 0 where none is given, which means 64.
    pub top_k: u32,
    /// Its first 8 bytes are the key of the generator.
    pub seed: [u8; 32],
}

/// A sampling parameter that the arithmetic does not know.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{field} is {value}, must be {bound}")]
pub struct ParamError {
    pub field: &'static str,
    pub value: u32,
    pub bound: &'static str,
}

impl SamplingParams {
    /// The most likely token, always.
    pub const GREEDY: Self =
        Self { temperature_micros: 0, top_p_micros: MICROS, top_k: MAX_TOP_K, seed: [0; 32] };

    /// Checks every bound.
    pub fn validate(&self) -> Result<(), ParamError> {
        let err = |field, value, bound| Err(ParamError { field, value, bound });
        if self.temperature_micros != 0 && self.temperature_micros < MIN_TEMPERATURE_MICROS {
            return err("temperature_micros", self.temperature_micros, "0 or at least 10000");
        }
        if self.top_p_micros > MICROS {
            return err("top_p_micros", self.top_p_micros, "at most 1000000");
        }
        if self.top_k > MAX_TOP_K {
            return err("top_k", self.top_k, "at most 64");
        }
        Ok(())
    }

    /// The temperature as the arithmetic has it.
    pub fn temperature(&self) -> f32 {
        micros(self.temperature_micros)
    }

    /// The nucleus as the arithmetic has it; 1 where none is given.
    pub fn top_p(&self) -> f32 {
        micros(if self.top_p_micros == 0 { MICROS } else { self.top_p_micros })
    }

    /// The generator's key.
    pub fn key(&self) -> [u32; 2] {
        [0, 4].map(|i| u32::from_le_bytes(std::array::from_fn(|j| self.seed[i + j])))
    }

    /// The token of output step `step`. `logits` is indexed by token id and not empty.
    pub fn sample(&self, logits: &[f32], step: u32) -> u32 {
        if self.temperature_micros == 0 {
            return argmax(logits);
        }
        let (temperature, top_p, key) = (self.temperature(), self.top_p(), self.key());
        let top_k = if self.top_k == 0 { MAX_TOP_K } else { self.top_k };
        let mut candidates = top(logits, top_k as usize);
        nucleus(&mut candidates, temperature, top_p);
        let mut best = (f32::NEG_INFINITY, u32::MAX);
        for (logit, id) in candidates {
            let score = logit / temperature + gumbel(philox([step, id, 0, 0], key)[0]);
            if score > best.0 || (score == best.0 && id < best.1) {
                best = (score, id);
            }
        }
        best.1
    }
}

/// An integer of millionths as f32.
fn micros(n: u32) -> f32 {
    n as f32 / MICROS as f32
}

/// The greatest logit's id, the lowest of several.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (id, logit) in logits.iter().enumerate() {
        if *logit > best.0 {
            best = (*logit, id as u32);
        }
    }
    best.1
}

/// The `k` greatest logits with their ids, falling; of equals the lowest id first.
fn top(logits: &[f32], k: usize) -> Vec<(f32, u32)> {
    let mut list: Vec<(f32, u32)> = Vec::with_capacity(k + 1);
    for (id, logit) in logits.iter().enumerate() {
        if list.len() == k && *logit <= list[k - 1].0 {
            continue;
        }
        let at = list.partition_point(|(other, _)| other >= logit);
        list.insert(at, (*logit, id as u32));
        list.truncate(k);
    }
    list
}

/// Keeps the shortest prefix whose weights, exp((logit - max) / T) summed in order, reach top_p of the whole list's.
fn nucleus(candidates: &mut Vec<(f32, u32)>, temperature: f32, top_p: f32) {
    let max = candidates[0].0;
    let sums: Vec<f32> = candidates
        .iter()
        .scan(0.0f32, |sum, (logit, _)| {
            *sum += exp((logit - max) / temperature);
            Some(*sum)
        })
        .collect();
    let wanted = top_p * sums[sums.len() - 1];
    let keep = sums.iter().position(|sum| *sum >= wanted).map_or(sums.len(), |last| last + 1);
    candidates.truncate(keep);
}

/// -log(-log(u)), u the middle of one of 2^23 equal parts of (0, 1): never 0 or 1.
fn gumbel(word: u32) -> f32 {
    let u = (2 * (word >> 9) + 1) as f32 * f32::from_bits((127 - 24) << 23);
    -log(-log(u))
}

/// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut k0, mut k1]) = (counter, key);
    for _ in 0..PHILOX_ROUNDS {
        let p = u64::from(PHILOX_M[0]) * u64::from(a);
        let q = u64::from(PHILOX_M[1]) * u64::from(c);
        (a, b, c, d) = ((q >> 32) as u32 ^ b ^ k0, q as u32, (p >> 32) as u32 ^ d ^ k1, p as u32);
        (k0, k1) = (k0.wrapping_add(PHILOX_W[0]), k1.wrapping_add(PHILOX_W[1]));
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123.
    #[test]
    fn philox_vectors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn params(temperature_micros: u32, top_p_micros: u32, top_k: u32) -> SamplingParams {
        SamplingParams { temperature_micros, top_p_micros, top_k, seed: std::array::from_fn(|i| i as u8 * 7) }
    }

    #[test]
    fn every_bound_is_named() {
        assert!(params(0, 0, 0).validate().is_ok());
        assert!(params(10_000, 1_000_000, 64).validate().is_ok());
        let text = |p: SamplingParams| p.validate().unwrap_err().to_string();
        assert_eq!(text(params(9_999, 0, 0)), "temperature_micros is 9999, must be 0 or at least 10000");
        assert_eq!(text(params(0, 1_000_001, 0)), "top_p_micros is 1000001, must be at most 1000000");
        assert_eq!(text(params(0, 0, 65)), "top_k is 65, must be at most 64");
    }

    #[test]
    fn ties_go_to_the_lowest_id() {
        let logits = [1.0, 3.0, 2.0, 3.0, 2.0];
        assert_eq!(argmax(&logits), 1);
        assert_eq!(top(&logits, 3), [(3.0, 1), (3.0, 3), (2.0, 2)]);
        assert_eq!(top(&logits, 9).len(), 5);
    }

    #[test]
    fn nucleus_is_the_shortest_prefix_that_reaches() {
        // weights 1, 1/2, 1/4, 1/4 of a sum of 2, up to rounding
        let ln2 = std::f32::consts::LN_2;
        let all = vec![(0.0, 0), (-ln2, 1), (-2.0 * ln2, 2), (-2.0 * ln2, 3)];
        let kept = |p| {
            let mut list = all.clone();
            nucleus(&mut list, 1.0, p);
            list.len()
        };
        assert_eq!([0.01, 0.49, 0.51, 0.74, 0.76, 0.88, 1.0].map(kept), [1, 1, 2, 2, 3, 4, 4]);
    }

    /// Gumbel-max draws with the softmax's odds.
    #[test]
    fn odds_are_those_of_softmax() {
        let logits: Vec<f32> = [0.4f32, 0.3, 0.2, 0.1].iter().map(|p| p.ln() * 0.7).collect();
        let mut seen = [0; 4];
        for step in 0..20_000 {
            seen[params(700_000, 0, 0).sample(&logits, step) as usize] += 1;
        }
        for (n, p) in seen.iter().zip([0.4, 0.3, 0.2, 0.1]) {
            assert!((f64::from(*n) / 20_000.0 - p).abs() < 0.015, "{seen:?}");
        }
        let mut other = params(700_000, 0, 0);
        other.seed[7] ^= 1;
        assert!(
            (0..50).any(|step| other.sample(&logits, step) != params(700_000, 0, 0).sample(&logits, step))
        );
        assert!((0..200).all(|step| params(700_000, 0, 2).sample(&logits, step) < 2));
        assert!((0..200).all(|step| params(700_000, 600_000, 0).sample(&logits, step) < 2));
    }

    /// Pins the sampler as a whole; computed with exact rationals, rounded where the definition rounds.
    #[test]
    fn token_vectors() {
        let logits: Vec<f32> =
            (0..1000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 500.0).collect();
        let drawn = |p: SamplingParams| -> Vec<u32> { (0..8).map(|step| p.sample(&logits, step)).collect() };
        assert_eq!(drawn(params(800_000, 950_000, 40)), [754, 76, 254, 254, 987, 131, 953, 364]);
        assert_eq!(drawn(params(1_500_000, 0, 0)), [673, 76, 254, 597, 987, 131, 953, 529]);
        assert_eq!(
            [0, 1 << 31, u32::MAX].map(|w| gumbel(w).to_bits()),
            [0xc033_f049, 0x3ebb_a79b, 0x4185_1592]
        );
    }
}
