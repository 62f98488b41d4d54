//! Tokens a second of the engine on SmolLM2-135M, beside llama.cpp on the same f16 weights: prefill and decoding, for
//! each number of threads and instruction set; then decoding with quantised weights, what an audit costs, and
//! an encoder beside candle (`--case embeddings`: that alone). Rounds alternate between all of them, so that a busy machine meets them
//! alike; medians are printed, with the best in brackets.
//!
//!     engine-bench [--peer llama-bench] [--rounds N] [--isa portable|avx2|avx512]... [--threads N]... [--case NAME]...
//!
//! `make bench-engine` builds the peer.

mod audit;
mod embed;
mod llama;
mod packed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use deepnode_worker::canon::sample::argmax;
use deepnode_worker::canon::{Device, Run, PAGE};
use deepnode_worker::cpu::{Cpu, Isa, Resident};
use deepnode_worker::model::{testing, Model};
use half::f16;

use llama::Llama;

/// What is measured, named as llama-bench names it.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Tokens of one prefill, ended by the logits of the last; or what the cache holds before decoding.
    prefilled: usize,
    /// Tokens decoded one by one, each from the logits before it.
    decoded: usize,
    /// Sequences that are decoded together.
    sequences: usize,
}

const CASES: [Case; 6] = [
    Case { name: "pp32", prefilled: 32, decoded: 0, sequences: 1 },
    Case { name: "pp128", prefilled: 128, decoded: 0, sequences: 1 },
    Case { name: "pp512", prefilled: 512, decoded: 0, sequences: 1 },
    Case { name: "tg64", prefilled: 1, decoded: 64, sequences: 1 },
    Case { name: "tg32@512", prefilled: 512, decoded: 32, sequences: 1 },
    Case { name: "tg32x8", prefilled: 16, decoded: 32, sequences: 8 },
];

/// Pages of keys and values that a sequence of the longest case needs.
const PAGES: usize = (512usize + 32).div_ceil(PAGE);

/// Tokens a second of one case; of several sequences all together.
fn measure(cpu: &dyn Device, case: Case) -> f64 {
    let (vocab, width) = (cpu.arch().vocab as usize, cpu.arch().width as usize);
    let prompt = |i: usize| {
        (0..case.prefilled as u32).map(move |j| (j + 7 * i as u32).wrapping_mul(2_654_435_761) % vocab as u32)
    };
    let tables: Vec<Vec<u32>> = match case.sequences {
        1 => vec![(0..PAGES as u32).collect()],
        n => (0..n as u32).map(|page| vec![page]).collect(),
    };
    let step = |tokens: &[Vec<u32>], first: usize, logits: &mut [f32]| {
        let runs: Vec<Run<'_>> =
            tokens.iter().zip(&tables).map(|(tokens, pages)| Run { tokens, first, pages }).collect();
        let x = cpu.forward(&runs, None).expect("a processor does not fail").x_final;
        let len = tokens[0].len();
        let last: Vec<f16> =
            x.chunks_exact(width).skip(len - 1).step_by(len).flat_map(|row| row.iter().copied()).collect();
        cpu.logits(&last, logits).expect("a processor does not fail");
    };
    let mut logits = vec![0.0; case.sequences * vocab];
    let start = Instant::now();
    step(&(0..case.sequences).map(|i| prompt(i).collect()).collect::<Vec<_>>(), 0, &mut logits);
    if case.decoded == 0 {
        return case.prefilled as f64 / start.elapsed().as_secs_f64();
    }
    let start = Instant::now();
    for i in 0..case.decoded {
        let tokens: Vec<Vec<u32>> = logits.chunks_exact(vocab).map(|logits| vec![argmax(logits)]).collect();
        step(&tokens, case.prefilled + i, &mut logits);
    }
    (case.sequences * case.decoded) as f64 / start.elapsed().as_secs_f64()
}

/// Tokens a second of one engine, by round.
#[derive(Default)]
struct Rates(Vec<f64>);

impl Rates {
    fn push(&mut self, rate: f64) {
        self.0.push(rate);
    }

    fn median(&mut self) -> f64 {
        self.0.sort_by(f64::total_cmp);
        self.0[self.0.len() / 2]
    }

    /// The median, and the best.
    fn text(&mut self) -> String {
        let median = self.median();
        format!("{median:.1} ({:.1})", self.0[self.0.len() - 1])
    }
}

struct Settings {
    rounds: usize,
    isas: Vec<Isa>,
    threads: Vec<usize>,
    cases: Vec<Case>,
    peer: Option<PathBuf>,
    only_embeddings: bool,
}

impl Settings {
    fn from_args() -> Self {
        let (mut rounds, mut peer, mut only_embeddings) = (5, None, false);
        let (mut isas, mut threads, mut cases) = (Vec::new(), Vec::new(), Vec::new());
        let mut args = std::env::args().skip(1);
        while let (Some(flag), Some(value)) = (args.next(), args.next()) {
            let case = CASES.into_iter().find(|case| case.name == value);
            match (&*flag, &*value, case) {
                ("--rounds", n, _) => rounds = n.parse().expect("--rounds takes a number"),
                ("--threads", n, _) => threads.push(n.parse().expect("--threads takes a number")),
                ("--isa", "portable", _) => isas.push(Isa::Portable),
                ("--isa", "avx2", _) => isas.push(Isa::Avx2),
                ("--isa", "avx512", _) => isas.push(Isa::Avx512),
                ("--peer", path, _) => peer = Some(path.into()),
                ("--case", "embeddings", _) => only_embeddings = true,
                ("--case", _, Some(case)) => cases.push(case),
                _ => panic!("{flag} {value}: see the top of engine-bench"),
            }
        }
        if isas.is_empty() {
            isas = Isa::available().into_iter().filter(|isa| *isa != Isa::Portable).collect();
            isas.reverse();
        }
        if threads.is_empty() {
            threads = vec![1, 2];
        }
        if cases.is_empty() {
            cases = CASES.to_vec();
        }
        Settings { rounds, isas, threads, cases, peer, only_embeddings }
    }
}

fn main() {
    let Settings { rounds, isas, threads, cases, peer, only_embeddings } = Settings::from_args();
    let embeddings = || embed::run(&threads, &isas, rounds).unwrap_or_else(|e| panic!("embeddings: {e}"));
    if only_embeddings {
        return embeddings();
    }
    let everything = cases.len() == CASES.len();
    let mapped = Arc::new(testing::smollm2());
    let model = Arc::new(Resident::copy(&mapped, true).expect("memory for the weights"));
    let peer = peer.map(|program| Llama::new(program, &mapped).unwrap_or_else(|e| panic!("the peer: {e}")));
    let engines: Vec<Vec<(Isa, Cpu<Resident<Model>>)>> = threads
        .iter()
        .map(|n| {
            isas.iter()
                .map(|isa| (*isa, Cpu::new(model.clone(), *isa, *n, 2 * PAGES).expect("threads")))
                .collect()
        })
        .collect();
    println!("SmolLM2-135M, f16; tokens/s, median of {rounds} (best)");
    if let Some(peer) = &peer {
        println!("peer: {}", peer.version());
    }
    let column = |text: &str| print!(" {text:>16} |");
    print!("\n| {:10} | threads |", "case");
    column(if peer.is_some() { "llama.cpp" } else { "-" });
    for isa in &isas {
        column(&format!("{isa:?}"));
        print!(" {:>5} |", "ratio");
    }
    print!("\n|------------|--------:|-----------------:|");
    println!("{}", "-----------------:|------:|".repeat(isas.len()));
    for case in cases {
        for (threads, engines) in threads.iter().zip(&engines) {
            let (mut theirs, mut ours) = (Rates::default(), Vec::new());
            ours.resize_with(engines.len(), Rates::default);
            for _ in 0..rounds {
                for (rates, (_, cpu)) in ours.iter_mut().zip(engines) {
                    rates.push(measure(cpu, case));
                }
                if let Some(peer) = &peer {
                    theirs.push(peer.measure(case, *threads).unwrap_or_else(|e| panic!("the peer: {e}")));
                }
            }
            print!("| {:10} | {threads:>7} |", case.name);
            column(&if peer.is_some() { theirs.text() } else { "-".into() });
            for rates in &mut ours {
                column(&rates.text());
                match &peer {
                    Some(_) => print!(" {:>5.2} |", rates.median() / theirs.median()),
                    None => print!(" {:>5} |", "-"),
                }
            }
            println!();
        }
    }
    if !everything {
        return;
    }
    drop(engines);
    if let Some(peer) = &peer {
        packed::run(peer, &threads, &isas, rounds).unwrap_or_else(|e| panic!("quantised weights: {e}"));
    }
    let most = threads.iter().copied().max().unwrap_or(1);
    audit::run(&mapped, isas[0], most, rounds).unwrap_or_else(|e| panic!("audits: {e}"));
    embeddings();
}
