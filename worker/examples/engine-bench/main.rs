//! The engine on SmolLM2-135M beside llama.cpp on the same weights: prefill and decoding, for each number of threads
//! and instruction set; how close the logits of both are; decoding with quantised weights; a process's start; what an
//! audit costs; and an encoder beside candle.
//! Rounds alternate between all of them, so that a busy machine meets them alike; medians are printed, with the best in
//! brackets. `make bench-engine` builds the peer.

mod agreement;
mod aims;
mod audit;
#[path = "../../tests/candle/mod.rs"]
mod candle;
mod embed;
mod llama;
mod packed;
mod startup;

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use deepnode_worker::canon::sample::argmax;
use deepnode_worker::canon::{Device, Run, PAGE};
use deepnode_worker::cpu::{Cpu, Isa, Resident};
use deepnode_worker::model::{testing, Model};
use half::f16;

use aims::Aims;
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

impl Case {
    /// How many times as fast as the peer it should be.
    fn aim(self, isa: Isa) -> f64 {
        match (isa, self.decoded, self.sequences) {
            (Isa::Portable, ..) => 0.0,
            (Isa::Avx512, 0, _) => 1.15,
            (Isa::Avx512, _, 1) => 1.1,
            _ => 1.0,
        }
    }
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

/// Measures the engine on SmolLM2-135M, beside llama.cpp where it is there.
#[derive(Parser)]
struct Settings {
    /// llama-bench, with llama.cpp's other tools beside it.
    #[arg(long, value_name = "PROGRAM")]
    peer: Option<PathBuf>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Instruction sets: portable, avx2, avx512, neon; by default all that this processor has but portable.
    #[arg(long)]
    isa: Vec<Isa>,
    /// Numbers of threads; 1 and 2 by default.
    #[arg(long)]
    threads: Vec<usize>,
    /// What to measure instead of everything: pp32, pp128, pp512, tg64, tg32@512, tg32x8, agreement, packed, audit, startup,
    /// embeddings.
    ///
    /// The exit code is 1 where a figure misses its aim by more than a tenth, which a machine that is not quite idle may
    /// cost: with AVX-512 1.1 times the peer's decoding and 1.15 times its prefill, otherwise as fast; packed weights 1.2
    /// times halves with two threads; a start as fast as the peer's, in 1.15 times the weights' memory besides keys and
    /// values (f16); an audit 1/3 of producing the same tokens with halves, all of it with packed weights, and committing
    /// 0.5% of decoding (both by their best rounds). `agreement` fails where greatest logits are the same at fewer than 99%
    /// of positions, or at a relative RMS error of 0.02. On a machine that computes something else too, more --rounds help.
    #[arg(long)]
    case: Vec<String>,
    /// Open this model, say two tokens and end: what the case `startup` measures.
    #[arg(long, value_name = "MODEL")]
    startup: Option<PathBuf>,
    /// ... without checking its weights.
    #[arg(long, hide = true)]
    unchecked: bool,
}

impl Settings {
    fn wants(&self, case: &str) -> bool {
        self.case.is_empty() || self.case.iter().any(|wanted| wanted == case)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut settings = Settings::parse();
    if settings.threads.is_empty() {
        settings.threads = vec![1, 2];
    }
    let most = settings.threads.iter().copied().max().unwrap_or(1);
    if let Some(model) = &settings.startup {
        return startup::child(model, most, settings.unchecked);
    }
    if settings.isa.is_empty() {
        settings.isa = Isa::available().into_iter().filter(|isa| *isa != Isa::Portable).rev().collect();
    }
    let others = ["agreement", "packed", "audit", "startup", "embeddings"];
    let is_known = |case: &str| others.contains(&case) || CASES.iter().any(|known| known.name == case);
    if let Some(unknown) = settings.case.iter().find(|case| !is_known(case)) {
        return Err(format!("--case {unknown}: see --help").into());
    }
    let of_peer = |case: &&String| ["agreement", "packed", "startup"].contains(&case.as_str());
    if let Some(case) = settings.case.iter().find(of_peer).filter(|_| settings.peer.is_none()) {
        return Err(format!("--case {case} needs --peer").into());
    }
    let (isas, threads, rounds) = (&settings.isa, &settings.threads, settings.rounds.into());
    let mapped = Arc::new(testing::smollm2());
    let peer = settings.peer.clone().map(|program| Llama::new(program, &mapped)).transpose()?;
    if let Some(peer) = &peer {
        println!("peer: {}", peer.version());
    }
    let mut aims = Aims::default();
    halves(&settings, &mapped, peer.as_ref(), &mut aims)?;
    if let Some(peer) = &peer {
        if settings.wants("agreement") {
            agreement::run(peer, &mapped, isas[0], most, &mut aims)?;
        }
        if settings.wants("packed") {
            packed::run(peer, threads, isas, rounds, &mut aims)?;
        }
        if settings.wants("startup") {
            startup::run(peer, threads, rounds, &mut aims)?;
        }
    }
    if settings.wants("audit") {
        audit::run(&mapped, isas[0], most, rounds, &mut aims)?;
    }
    if settings.wants("embeddings") {
        embed::run(threads, isas, rounds)?;
    }
    Ok(aims.missed()?)
}

/// The cases with f16 weights.
fn halves(
    settings: &Settings,
    mapped: &Arc<Model>,
    peer: Option<&Llama>,
    aims: &mut Aims,
) -> Result<(), Box<dyn Error>> {
    let cases: Vec<Case> = CASES.into_iter().filter(|case| settings.wants(case.name)).collect();
    if cases.is_empty() {
        return Ok(());
    }
    let Settings { rounds, isa: isas, threads, .. } = settings;
    let model = Arc::new(Resident::copy(mapped, true).ok_or("memory for the weights")?);
    let engines: Vec<Vec<Cpu<Resident<Model>>>> = threads
        .iter()
        .map(|n| isas.iter().map(|isa| Cpu::new(model.clone(), *isa, *n, 2 * PAGES)).collect())
        .collect::<Result<_, _>>()?;
    println!("SmolLM2-135M, f16; tokens/s, median of {rounds} (best)");
    let column = |text: &str| print!(" {text:>16} |");
    print!("\n| {:10} | threads |", "case");
    column(if peer.is_some() { "llama.cpp" } else { "-" });
    for isa in isas {
        column(&format!("{isa:?}"));
        print!(" {:>5} |", "ratio");
    }
    print!("\n|------------|--------:|-----------------:|");
    println!("{}", "-----------------:|------:|".repeat(isas.len()));
    for case in cases {
        for (threads, engines) in threads.iter().zip(&engines) {
            let (mut theirs, mut ours) = (Rates::default(), Vec::new());
            ours.resize_with(engines.len(), Rates::default);
            for _ in 0..*rounds {
                for (rates, cpu) in ours.iter_mut().zip(engines) {
                    rates.push(measure(cpu, case));
                }
                if let Some(peer) = peer {
                    theirs.push(peer.measure(case, *threads)?);
                }
            }
            print!("| {:10} | {threads:>7} |", case.name);
            column(&if peer.is_some() { theirs.text() } else { "-".into() });
            for (rates, isa) in ours.iter_mut().zip(isas) {
                column(&rates.text());
                if peer.is_none() {
                    print!(" {:>5} |", "-");
                    continue;
                }
                let ratio = rates.median() / theirs.median();
                print!(" {ratio:>5.2} |");
                let what = format!("{} with {isa:?}, {threads} threads, of llama.cpp", case.name);
                aims.at_least(&what, ratio, case.aim(*isa));
            }
            println!();
        }
    }
    Ok(())
}
