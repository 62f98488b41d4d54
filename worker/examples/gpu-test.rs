//! Whole generations on every card of a machine, compared with what a CPU made of the same models, and how fast they are.
//! The weights are drawn from a seed, so that this program and a file of digests are all that such a machine needs.
//!
//!     gpu-test --write digests.toml      computes the digests on this CPU
//!     gpu-test digests.toml              runs on the cards, and fails where a digest differs
//!
//! `make gpu-test` puts both into one folder.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use deepnode_worker::canon::commit::{token_digest, trace_leaf, trace_root};
use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::{Architecture, Decoder, Device, Run, SamplingParams, PAGE};
use deepnode_worker::cpu::{Cpu, Isa};
use deepnode_worker::cuda::{cards, Card, Cuda, Driver, Room};
use deepnode_worker::model::synthetic::small;

/// Sequences that are generated together.
struct Case {
    name: &'static str,
    arch: Architecture,
    /// Tokens of each sequence's prompt.
    prompts: Vec<usize>,
    /// Tokens that each gets.
    output: u32,
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

fn cases() -> Vec<Case> {
    let case = |name, arch, prompts, output| Case { name, arch, prompts, output };
    vec![
        case("tails", tails(), vec![130, 3, 1], 24),
        case("135m-1", smollm2(), vec![200], 64),
        case("135m-8", smollm2(), (1..=8).map(|i| 5 * i).collect(), 16),
        case("135m-32", smollm2(), (1..=32).collect(), 8),
        case("1b-1", llama(), vec![12], 32),
    ]
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

struct Outcome {
    /// Over tokens and traces of all sequences.
    digest: String,
    prefill: Duration,
    /// Of all steps but the first, which is recorded.
    decode: Duration,
}

/// Generates all sequences of a case together.
fn generate(device: &dyn Device, case: &Case) -> Result<Outcome> {
    let (width, vocab) = (case.arch.width as usize, case.arch.vocab);
    let mut tokens: Vec<Vec<u32>> = (0..)
        .zip(&case.prompts)
        .map(|(s, n)| {
            (0..*n as u32).map(|i| (i * 7919 + s * 104_729).wrapping_mul(2_654_435_761) % vocab).collect()
        })
        .collect();
    let mut pages: Vec<Vec<u32>> = Vec::new();
    let mut next_page = 0;
    for prompt in &case.prompts {
        let end = next_page + (prompt + case.output as usize).div_ceil(PAGE) as u32;
        pages.push((next_page..end).rev().collect());
        next_page = end;
    }
    let mut done = vec![0; tokens.len()];
    let mut leaves = vec![Vec::new(); tokens.len()];
    let (mut prefill, mut decode) = (Duration::ZERO, Duration::ZERO);
    for step in 0..case.output {
        let start = Instant::now();
        let runs: Vec<Run<'_>> = (0..tokens.len())
            .map(|i| Run { tokens: &tokens[i][done[i]..], first: done[i], pages: &pages[i] })
            .collect();
        let forward = device.forward(&runs, None)?;
        let (mut row, mut x) = (0, Vec::new());
        for run in &runs {
            row += run.tokens.len();
            x.extend_from_slice(&forward.x_final[(row - 1) * width..row * width]);
        }
        let choices: Vec<_> = (0..tokens.len()).map(|i| (params(i), step)).collect();
        let drawn = device.sample(&x, &choices)?;
        match step {
            0 => prefill = start.elapsed(),
            1 => {}
            _ => decode += start.elapsed(),
        }
        for (i, (token, x)) in drawn.into_iter().zip(x.chunks(width)).enumerate() {
            leaves[i].push(trace_leaf(step, token, x));
            done[i] = tokens[i].len();
            tokens[i].push(token);
        }
    }
    let mut hasher = blake3::Hasher::new();
    for (tokens, leaves) in tokens.iter().zip(&leaves) {
        hasher.update(&token_digest(tokens));
        hasher.update(&trace_root(leaves));
    }
    Ok(Outcome { digest: hasher.finalize().to_hex().to_string(), prefill, decode })
}

fn pages(case: &Case) -> usize {
    case.prompts.iter().map(|n| (n + case.output as usize).div_ceil(PAGE)).sum()
}

fn on_cpu(case: &Case, model: Arc<RandomDecoder>) -> Result<Outcome> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = Cpu::new(model, Isa::detect(), threads, pages(case))?;
    generate(&cpu, case)
}

fn on_card(case: &Case, model: &RandomDecoder, card: &Card, overlap: bool) -> Result<Outcome> {
    let driver = Driver::open(card, overlap)?;
    let device = Cuda::new(driver, model, Room { pages: Some(pages(case)), ..Room::default() })?;
    generate(&device, case)
}

/// Bytes of weights that a step reads.
fn weights(arch: &Architecture) -> f64 {
    let [layers, width, q, kv, ffn, vocab] =
        [arch.layers, arch.width, arch.q_rows(), arch.kv_rows(), arch.ffn, arch.vocab].map(f64::from);
    2.0 * width * (layers * (2.0 * q + 2.0 * kv + 3.0 * ffn) + vocab)
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--write", path] => {
            let mut digests = BTreeMap::new();
            for case in cases() {
                let outcome = on_cpu(&case, Arc::new(RandomDecoder::new(case.arch.clone(), 1)))?;
                println!("{:8} {}", case.name, outcome.digest);
                digests.insert(case.name, outcome.digest);
            }
            std::fs::write(path, toml::to_string(&digests)?).with_context(|| path.to_string())
        }
        [path] => compare(path),
        _ => bail!("gpu-test [--write] digests.toml"),
    }
}

fn compare(path: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_string())?;
    let digests: BTreeMap<String, String> = toml::from_str(&text)?;
    let cards = cards()?;
    let mut different = 0;
    for card in &cards {
        println!(
            "{} {}, compute capability {}.{}",
            card.ordinal, card.name, card.capability.0, card.capability.1
        );
        println!("case     overlap result     prefill tokens/s  decode tokens/s  GB/s of weights");
        for case in cases() {
            let wanted = digests.get(case.name).with_context(|| format!("{path} has no {}", case.name))?;
            let model = RandomDecoder::new(case.arch.clone(), 1);
            for overlap in [false, true] {
                let outcome = on_card(&case, &model, card, overlap)?;
                let same = outcome.digest == *wanted;
                different += u32::from(!same);
                let steps = f64::from(case.output - 2) / outcome.decode.as_secs_f64();
                println!(
                    "{:8} {:7} {:10} {:16.1} {:16.1} {:16.1}",
                    case.name,
                    overlap,
                    if same { "same" } else { "DIFFERENT" },
                    case.prompts.iter().sum::<usize>() as f64 / outcome.prefill.as_secs_f64(),
                    steps * case.prompts.len() as f64,
                    steps * weights(model.arch()) / 1e9,
                );
            }
        }
    }
    if different > 0 {
        bail!("{different} digests differ from the CPU's");
    }
    Ok(())
}
