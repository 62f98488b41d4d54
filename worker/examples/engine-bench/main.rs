//! Tokens a second of the engine on SmolLM2-135M, beside llama.cpp on the same f16 weights: prefill and decoding, for
//! each number of threads and instruction set. Rounds alternate between all of them, so that a busy machine meets them
//! alike; medians are printed, with the best in brackets.
//!
//!     engine-bench [--peer llama-bench] [--rounds N] [--isa portable|avx2|avx512]... [--threads N]... [--case NAME]...
//!
//! `make bench-engine` builds the peer.

mod llama;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use deepnode_worker::canon::sample::argmax;
use deepnode_worker::canon::{Device, Run, PAGE};
use deepnode_worker::cpu::{Cpu, Isa, Resident};
use deepnode_worker::model::{testing, Model};

use llama::Llama;

/// What is measured, named as llama-bench names it.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Tokens of one prefill, ended by the logits of the last; or what the cache holds before decoding.
    prefilled: usize,
    /// Tokens decoded one by one, each from the logits before it.
    decoded: usize,
}

const CASES: [Case; 5] = [
    Case { name: "pp32", prefilled: 32, decoded: 0 },
    Case { name: "pp128", prefilled: 128, decoded: 0 },
    Case { name: "pp512", prefilled: 512, decoded: 0 },
    Case { name: "tg64", prefilled: 1, decoded: 64 },
    Case { name: "tg32@512", prefilled: 512, decoded: 32 },
];

/// Pages of keys and values that the longest case needs.
const PAGES: usize = (512usize + 32).div_ceil(PAGE);

/// Tokens a second of one case.
fn measure(cpu: &dyn Device, case: Case) -> f64 {
    let vocab = cpu.arch().vocab;
    let tokens: Vec<u32> =
        (0..case.prefilled as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
    let pages: Vec<u32> = (0..PAGES as u32).collect();
    let forward = |tokens: &[u32], first| {
        cpu.forward(&[Run { tokens, first, pages: &pages }], None).expect("a processor does not fail").x_final
    };
    let head =
        |x: &[half::f16], logits: &mut [f32]| cpu.logits(x, logits).expect("a processor does not fail");
    let width = cpu.arch().width as usize;
    let mut logits = vec![0.0; vocab as usize];
    let start = Instant::now();
    let mut x = forward(&tokens, 0);
    head(&x[x.len() - width..], &mut logits);
    if case.decoded == 0 {
        return case.prefilled as f64 / start.elapsed().as_secs_f64();
    }
    let start = Instant::now();
    for step in 0..case.decoded {
        x = forward(&[argmax(&logits)], case.prefilled + step);
        head(&x[x.len() - width..], &mut logits);
    }
    case.decoded as f64 / start.elapsed().as_secs_f64()
}

/// Tokens a second of one engine, by round.
#[derive(Default)]
struct Rates(Vec<f64>);

impl Rates {
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
}

impl Settings {
    fn from_args() -> Self {
        let (mut rounds, mut peer) = (5, None);
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
        Settings { rounds, isas, threads, cases, peer }
    }
}

fn main() {
    let Settings { rounds, isas, threads, cases, peer } = Settings::from_args();
    let mapped = Arc::new(testing::smollm2());
    let model = Arc::new(Resident::copy(&mapped, true).expect("memory for the weights"));
    let peer = peer.map(|program| Llama::new(program, &mapped).unwrap_or_else(|e| panic!("the peer: {e}")));
    let engines: Vec<Vec<(Isa, Cpu<Resident<Model>>)>> = threads
        .iter()
        .map(|n| {
            isas.iter()
                .map(|isa| (*isa, Cpu::new(model.clone(), *isa, *n, PAGES).expect("threads")))
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
                    rates.0.push(measure(cpu, case));
                }
                if let Some(peer) = &peer {
                    theirs.0.push(peer.measure(case, *threads).unwrap_or_else(|e| panic!("the peer: {e}")));
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
}
