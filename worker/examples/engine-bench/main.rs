//! Tokens a second of the engine on SmolLM2-135M: prefill and decoding, for each instruction set and number of
//! threads. Rounds are interleaved, medians printed.
//!
//!     engine-bench [--rounds N] [--isa portable|avx2|avx512]... [--threads N]...

use std::sync::Arc;
use std::time::Instant;

use deepnode_worker::canon::sample::argmax;
use deepnode_worker::canon::Backend;
use deepnode_worker::cpu::{Cpu, Isa, Resident};
use deepnode_worker::model::testing;

/// What is measured: tokens prefilled, then tokens decoded.
const CASES: [(&str, usize, usize); 5] =
    [("pp32", 32, 0), ("pp128", 128, 0), ("pp512", 512, 0), ("tg64", 1, 64), ("tg32 at 512", 512, 32)];

/// Tokens a second of one case.
fn measure(cpu: &dyn Backend, prefilled: usize, decoded: usize) -> f64 {
    let vocab = cpu.arch().vocab;
    let tokens: Vec<u32> = (0..prefilled as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
    let mut sequence = cpu.open(prefilled + decoded).expect("memory for a sequence");
    let start = Instant::now();
    let mut x = sequence.forward(&tokens, None).x_final;
    if decoded == 0 {
        return prefilled as f64 / start.elapsed().as_secs_f64();
    }
    let width = cpu.arch().width as usize;
    let mut logits = vec![0.0; vocab as usize];
    let start = Instant::now();
    for _ in 0..decoded {
        cpu.logits(&x[x.len() - width..], &mut logits);
        x = sequence.forward(&[argmax(&logits)], None).x_final;
    }
    decoded as f64 / start.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (mut rounds, mut isas, mut threads) = (5, Vec::new(), Vec::new());
    let mut args = std::env::args().skip(1);
    while let (Some(flag), Some(value)) = (args.next(), args.next()) {
        match (&*flag, &*value) {
            ("--rounds", n) => rounds = n.parse().expect("--rounds takes a number"),
            ("--threads", n) => threads.push(n.parse().expect("--threads takes a number")),
            ("--isa", "portable") => isas.push(Isa::Portable),
            ("--isa", "avx2") => isas.push(Isa::Avx2),
            ("--isa", "avx512") => isas.push(Isa::Avx512),
            _ => panic!("{flag} {value}: see the top of engine-bench.rs"),
        }
    }
    if isas.is_empty() {
        isas = Isa::available().into_iter().filter(|isa| *isa != Isa::Portable).collect();
    }
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    let mapped = Arc::new(testing::smollm2());
    let model = Arc::new(Resident::copy(&mapped).expect("memory for the weights"));
    let engines: Vec<_> = isas
        .iter()
        .flat_map(|isa| threads.iter().map(move |n| (*isa, *n)))
        .map(|(isa, n)| (format!("{isa:?}, {n} threads"), Cpu::new(model.clone(), isa, n).expect("threads")))
        .collect();
    println!("tokens/s, median (best) of {rounds}");
    for (case, prefilled, decoded) in CASES {
        let mut results = vec![Vec::new(); engines.len()];
        for _ in 0..rounds {
            for (result, (_, cpu)) in results.iter_mut().zip(&engines) {
                result.push(measure(cpu, prefilled, decoded));
            }
        }
        for (result, (name, _)) in results.iter_mut().zip(&engines) {
            let median = median(result);
            println!("{case:12} {name:20} {median:8.1} ({:.1})", result[result.len() - 1]);
        }
    }
}
