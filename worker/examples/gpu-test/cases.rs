//! What is generated, on a CPU and on cards alike: models whose weights are drawn from a seed, and sequences of each.

use std::time::{Duration, Instant};

use anyhow::Result;
use deepnode_worker::canon::commit::{token_digest, trace_leaf, trace_root, Digest};
use deepnode_worker::canon::{Architecture, Device, Forward, Run, SamplingParams, PAGE};
use deepnode_worker::model::synthetic::small;

/// Sequences that are generated together.
pub struct Case {
    pub name: &'static str,
    /// Tokens of each sequence's prompt.
    pub prompts: Vec<usize>,
    /// Tokens that each gets and that the digest is over.
    pub output: u32,
}

impl Case {
    /// Pages of keys and values for `steps` more tokens of each sequence.
    fn pages(&self, steps: usize) -> usize {
        self.prompts.iter().map(|n| (n + self.output as usize + steps).div_ceil(PAGE)).sum()
    }
}

/// A model, and what is generated with it.
pub struct Model {
    pub arch: Architecture,
    pub cases: Vec<Case>,
    /// Whether it is the one that the aims are about, which is also audited, and timed kernel by kernel.
    pub aimed: bool,
}

impl Model {
    /// Pages that suffice for each of its cases.
    pub fn pages(&self, steps: usize) -> usize {
        self.cases.iter().map(|case| case.pages(steps)).max().unwrap_or(0)
    }
}

/// The cases that the aims are about: a sequence that decodes, sixteen of them, and a prompt.
pub const ALONE: &str = "1b-1";
pub const BATCH: &str = "1b-16";
pub const PROMPT: &str = "1b-512";

pub fn models() -> Vec<Model> {
    let case = |name, prompts, output| Case { name, prompts, output };
    let smollm2_cases = vec![
        case("135m-1", vec![200], 64),
        case("135m-8", (1..=8).map(|i| 5 * i).collect(), 16),
        case("135m-32", (1..=32).collect(), 8),
    ];
    // Few tokens: the CPU that writes the digests has to compute them too.
    let llama_cases =
        vec![case(ALONE, vec![12], 32), case(BATCH, vec![12; 16], 8), case(PROMPT, vec![512], 2)];
    vec![
        Model { arch: tails(), cases: vec![case("tails", vec![130, 3, 1], 24)], aimed: false },
        Model { arch: smollm2(), cases: smollm2_cases, aimed: false },
        Model { arch: llama(), cases: llama_cases, aimed: true },
    ]
}

/// Tails everywhere: columns, rows, heads, a page.
fn tails() -> Architecture {
    Architecture {
        layers: 3,
        width: 202,
        heads: 9,
        kv_heads: 3,
        head_dim: 22,
        ffn: 331,
        vocab: 3001,
        context: 512,
        eos: vec![0],
        tied: false,
        qkv_bias: true,
        ..small()
    }
}

/// The sizes of SmolLM2-135M.
fn smollm2() -> Architecture {
    Architecture {
        layers: 30,
        width: 576,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ffn: 1536,
        vocab: 49_152,
        context: 1024,
        tied: true,
        qkv_bias: false,
        ..tails()
    }
}

/// The sizes of Llama-3.2-1B.
fn llama() -> Architecture {
    Architecture {
        layers: 16,
        width: 2048,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        ffn: 8192,
        vocab: 128_256,
        ..smollm2()
    }
}

/// How a token is drawn, of sequence `i`.
fn params(i: usize) -> SamplingParams {
    match i % 2 {
        0 => SamplingParams::GREEDY,
        _ => SamplingParams {
            temperature_micros: 900_000,
            top_p_micros: 950_000,
            top_k: 40,
            seed: [i as u8; 32],
        },
    }
}

/// `n` tokens of prompt number `which`.
pub fn prompt(n: usize, which: u32, vocab: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 7919 + which * 104_729).wrapping_mul(2_654_435_761) % vocab).collect()
}

/// The sequences of a case as they grow.
pub struct Sequences {
    tokens: Vec<Vec<u32>>,
    pages: Vec<Vec<u32>>,
    prompts: Vec<usize>,
    /// Positions that are computed.
    done: Vec<usize>,
    leaves: Vec<Vec<Digest>>,
}

impl Sequences {
    /// The prompts of a case, with pages for `steps` tokens more than its output.
    fn new(case: &Case, vocab: u32, steps: usize) -> Self {
        let tokens: Vec<Vec<u32>> =
            (0..).zip(&case.prompts).map(|(which, n)| prompt(*n, which, vocab)).collect();
        let mut pages: Vec<Vec<u32>> = Vec::new();
        let mut next_page = 0;
        for prompt in &case.prompts {
            let end = next_page + (prompt + case.output as usize + steps).div_ceil(PAGE) as u32;
            pages.push((next_page..end).rev().collect());
            next_page = end;
        }
        let count = tokens.len();
        Self {
            tokens,
            pages,
            prompts: case.prompts.clone(),
            done: vec![0; count],
            leaves: vec![Vec::new(); count],
        }
    }

    /// Generates what a case's digest is over, and answers the digest.
    pub fn generate(device: &dyn Device, case: &Case, steps: usize) -> Result<(Self, String)> {
        let mut sequences = Self::new(case, device.arch().vocab, steps);
        for _ in 0..case.output {
            sequences.step(device)?;
        }
        let digest = sequences.digest();
        Ok((sequences, digest))
    }

    /// Over tokens and traces of all sequences.
    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (tokens, leaves) in self.tokens.iter().zip(&self.leaves) {
            hasher.update(&token_digest(tokens));
            hasher.update(&trace_root(leaves));
        }
        hasher.finalize().to_hex().to_string()
    }

    fn forward(
        &self,
        device: &dyn Device,
        positions: impl Fn(usize) -> std::ops::Range<usize>,
    ) -> Result<Forward> {
        let runs: Vec<Run<'_>> = (0..self.tokens.len())
            .map(|i| {
                let now = positions(i);
                Run { first: now.start, tokens: &self.tokens[i][now], pages: &self.pages[i] }
            })
            .collect();
        Ok(device.forward(&runs, None)?)
    }

    /// The next token of each, as a server computes it; how long the device took.
    pub fn step(&mut self, device: &dyn Device) -> Result<Duration> {
        let width = device.arch().width as usize;
        let start = Instant::now();
        let forward = self.forward(device, |i| self.done[i]..self.tokens[i].len())?;
        let (mut row, mut x) = (0, Vec::new());
        for (tokens, done) in self.tokens.iter().zip(&self.done) {
            row += tokens.len() - done;
            x.extend_from_slice(&forward.x_final[(row - 1) * width..row * width]);
        }
        let step = self.leaves[0].len() as u32;
        let choices: Vec<_> = (0..self.tokens.len()).map(|i| (params(i), step)).collect();
        let drawn = device.sample(&x, &choices)?;
        let took = start.elapsed();
        for (i, (token, x)) in drawn.into_iter().zip(x.chunks(width)).enumerate() {
            self.leaves[i].push(trace_leaf(step, token, x));
            self.done[i] = self.tokens[i].len();
            self.tokens[i].push(token);
        }
        Ok(took)
    }

    /// The prompts once more, which leaves what is there; how long the device took.
    pub fn prefill(&self, device: &dyn Device) -> Result<Duration> {
        let start = Instant::now();
        self.forward(device, |i| 0..self.prompts[i])?;
        Ok(start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deepnode_worker::canon::random::RandomDecoder;
    use deepnode_worker::canon::reference::Reference;
    use deepnode_worker::cpu::{Cpu, Isa};
    use std::sync::Arc;

    /// The digest is the same on another device, and after what is only timed; another seed gives another.
    #[test]
    fn digests_tell_models_apart() {
        let case = Case { name: "small", prompts: vec![20, 3], output: 4 };
        let cpu = |seed| {
            let model = Arc::new(RandomDecoder::new(small(), seed));
            Cpu::new(model, Isa::detect(), 1, case.pages(3)).unwrap()
        };
        let device = cpu(1);
        let (mut sequences, first) = Sequences::generate(&device, &case, 3).unwrap();
        for _ in 0..3 {
            sequences.prefill(&device).unwrap();
            sequences.step(&device).unwrap();
        }
        assert_eq!(sequences.tokens.iter().map(Vec::len).collect::<Vec<_>>(), [27, 10]);
        let again = Sequences::generate(&device, &case, 0).unwrap().1;
        let reference = Reference::new(Arc::new(RandomDecoder::new(small(), 1)));
        assert_eq!((&first, &first), (&again, &Sequences::generate(&reference, &case, 0).unwrap().1));
        assert_ne!(first, Sequences::generate(&cpu(2), &case, 0).unwrap().1);
    }

    /// The names that the aims look for are there, each once, of one model.
    #[test]
    fn the_aims_have_their_cases() {
        let models = models();
        let aimed: Vec<&Model> = models.iter().filter(|model| model.aimed).collect();
        assert_eq!(aimed.len(), 1);
        assert_eq!(aimed[0].cases.iter().map(|case| case.name).collect::<Vec<_>>(), [ALONE, BATCH, PROMPT]);
        let prompts: Vec<usize> = aimed[0].cases.iter().map(|case| case.prompts.len()).collect();
        assert_eq!(prompts, [1, 16, 1]);
    }
}
