//! Whole generations on every card of a machine, compared with what a CPU made of the same models, and how fast they are,
//! beside what the card can do and what is aimed at. The weights are drawn from a seed, so that this program and a file of
//! digests are all that such a machine needs.
//!
//!     gpu-test --write digests.toml      computes the digests on this CPU
//!     gpu-test digests.toml              runs on the cards, and fails where a digest differs
//!
//! `make gpu-test` puts both into one folder. docs/kernels.md says how to read what is printed.

mod audit;
mod card;
mod cases;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../tests/kernels/emulated.rs"]
mod emulated;
mod report;
mod run;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{bail, Context, Result};
use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::cpu::{Cpu, Isa};
use deepnode_worker::cuda::{cards, Card, Driver, Gpu};

use cases::{models, Model, Sequences};
use report::Peaks;
use run::{Digests, Effort, Failures, Opener};

/// What is timed on a card: less than a second of each case, and some seconds of audits.
const EFFORT: Effort = Effort { steps: 64, prefills: 11, outputs: &[128, 448] };
/// Bytes that are copied within a card, far beyond its caches; less where memory is short.
const COPIED: usize = 1 << 30;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match arguments(&args)? {
        Command::Write(path) => {
            let text = toml::to_string(&write(&models())?)?;
            std::fs::write(path, text).with_context(|| path.to_string())
        }
        Command::Compare(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.to_string())?;
            compare(&read(&text, &models()).with_context(|| path.to_string())?)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Command<'a> {
    Write(&'a str),
    Compare(&'a str),
}

fn arguments(args: &[String]) -> Result<Command<'_>> {
    match args {
        [write, path] if write == "--write" => Ok(Command::Write(path)),
        [path] if !path.starts_with('-') => Ok(Command::Compare(path)),
        _ => bail!("gpu-test [--write] digests.toml"),
    }
}

/// The digests of all cases, computed on this CPU.
fn write(models: &[Model]) -> Result<Digests> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut digests = Digests::new();
    for model in models {
        let weights = Arc::new(RandomDecoder::new(model.arch.clone(), 1));
        let cpu = Cpu::new(weights, Isa::detect(), threads, model.pages(0))?;
        for case in &model.cases {
            let start = Instant::now();
            let digest = Sequences::generate(&cpu, case, 0)?.1;
            println!("{:8} {digest}  {:.1} s", case.name, start.elapsed().as_secs_f64());
            digests.insert(case.name.into(), digest);
        }
    }
    Ok(digests)
}

/// The digests that a file has: one of each case, and no others.
fn read(text: &str, models: &[Model]) -> Result<Digests> {
    let digests: Digests = toml::from_str(text)?;
    let names: Vec<&str> = models.iter().flat_map(|model| &model.cases).map(|case| case.name).collect();
    if let Some(missing) = names.iter().find(|name| !digests.contains_key(**name)) {
        bail!("no digest of {missing}");
    }
    match digests.keys().find(|name| !names.contains(&&name[..])) {
        Some(unknown) => bail!("{unknown} is no case: the file is another version's"),
        None => Ok(digests),
    }
}

fn compare(digests: &Digests) -> Result<()> {
    let mut failures = Vec::new();
    for card in &cards()? {
        println!(
            "{} {}, compute capability {}.{}",
            card.ordinal, card.name, card.capability.0, card.capability.1
        );
        let mut first = Failures::default();
        let peaks = peaks(card, &mut first);
        let open = |overlap| Ok(Driver::open(card, overlap)?);
        let rest = run::run(&Opener { open: &open, time: Driver::time }, &models(), digests, peaks, &EFFORT);
        failures.extend([first.0, rest.0].concat());
    }
    if !failures.is_empty() {
        bail!("{} failed: {}", failures.len(), failures.join("; "));
    }
    Ok(())
}

/// What the card can do, and what the kernels take up on it, printed.
fn peaks(card: &Card, failures: &mut Failures) -> Peaks {
    // A driver for each, so that none fails with another, and memory is free again.
    let open = || Driver::open(card, false);
    let loaded = failures.note("registers", open().and_then(|driver| driver.loaded()).map_err(Into::into));
    loaded.iter().for_each(|loaded| println!("{}", report::loaded(loaded)));
    let copying = open().map_err(Into::into).and_then(|mut driver| {
        let bytes = COPIED.min(driver.free_bytes()? / 4);
        card::copying(&mut driver, bytes)
    });
    let ffma = open().map_err(Into::into).and_then(|mut driver| {
        driver.load(card::FFMA, &card::ptx())?;
        let multiprocessors = driver.multiprocessors()?;
        card::ffma(&mut driver, multiprocessors)
    });
    let peaks = Peaks { copying: failures.note("copying", copying), ffma: failures.note("FFMA", ffma) };
    peaks.copying.iter().for_each(|rate| println!("copying: {:.1} GB/s, read and written", rate / 1e9));
    peaks.ffma.iter().for_each(|rate| println!("FFMA peak: {:.2} TFLOP/s, measured", rate / 1e12));
    peaks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_a_path_and_a_flag() {
        let args = |args: &[&str]| args.iter().map(|arg| arg.to_string()).collect::<Vec<_>>();
        assert_eq!(arguments(&args(&["d.toml"])).unwrap(), Command::Compare("d.toml"));
        assert_eq!(arguments(&args(&["--write", "d.toml"])).unwrap(), Command::Write("d.toml"));
        for wrong in [&[][..], &["--write"], &["--help"], &["a", "b"], &["--write", "a", "b"]] {
            assert!(arguments(&args(wrong)).is_err(), "{wrong:?}");
        }
    }

    /// A file has the digests of exactly these cases.
    #[test]
    fn files_of_other_versions_are_refused() {
        let models = models();
        let names = models.iter().flat_map(|model| &model.cases).map(|case| case.name.to_string());
        let digests: Digests = names.map(|name| (name, "ab".repeat(32))).collect();
        let text = toml::to_string(&digests).unwrap();
        assert_eq!(read(&text, &models).unwrap(), digests);
        let error = |text: &str| read(text, &models).unwrap_err().to_string();
        assert_eq!(error(&text.replace("1b-16", "1b-17")), "no digest of 1b-16");
        assert_eq!(error(&(text.clone() + "2b = \"\"\n")), "2b is no case: the file is another version's");
        assert!(read("1b-1 = 3", &models).is_err());
    }
}
