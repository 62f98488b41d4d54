//! Everything that is generated and timed on a device that launches kernels: a card, and in tests the emulator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{ensure, Result};
use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::{Device, PAGE};
use deepnode_worker::cuda::{Cuda, Gpu, GpuError, Launch, Room, Timed};
use deepnode_worker::engine::Engine;

use crate::audit::{self, audit};
use crate::cases::{Case, Model, Sequences, PROMPT};
use crate::report::{self, Peaks, Rates};

/// Digests by the name of their case.
pub type Digests = BTreeMap<String, String>;

/// What failed, said at once: what comes after is measured nonetheless, as a card may be lent for minutes.
#[derive(Default)]
pub struct Failures(pub Vec<String>);

impl Failures {
    /// The result, or nothing but a note that `what` failed.
    pub fn note<T>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                println!("{what} FAILED: {error:#}");
                self.0.push(what.to_string());
            })
            .ok()
    }
}

/// How a device is opened, launches overlapping or not, and how its launches are timed.
pub struct Opener<'a, G> {
    pub open: &'a dyn Fn(bool) -> Result<G>,
    pub time: fn(&mut G, &[Launch]) -> Result<Vec<Duration>, GpuError>,
}

/// How much is timed, after what the digests are over.
pub struct Effort {
    /// Steps that give each sequence a token; of those timed by kernel a fourth.
    pub steps: usize,
    /// Prefills of the prompts.
    pub prefills: usize,
    /// Tokens of the outputs that are audited.
    pub outputs: &'static [u32],
}

impl Effort {
    fn pages(&self, model: &Model) -> usize {
        // A session's and an audit's.
        let audit = self.outputs.iter().map(|output| 2 * (audit::PROMPT + *output as usize).div_ceil(PAGE));
        model.pages(self.steps).max(audit.max().unwrap_or(0))
    }
}

/// Generates every case, compares its digest and prints how fast it is; then audits, times and the aims of the model that
/// these are about.
pub fn run<G: Gpu + 'static>(
    device: &Opener<'_, G>,
    models: &[Model],
    digests: &Digests,
    peaks: Peaks,
    effort: &Effort,
) -> Failures {
    let mut failures = Failures::default();
    let mut rates = BTreeMap::new();
    let mut audits = Vec::new();
    println!("{}", report::CASES);
    for model in models {
        let weights = RandomDecoder::new(model.arch.clone(), 1);
        for overlap in [false, true] {
            let opened = (device.open)(overlap).and_then(|gpu| upload(gpu, model, &weights, effort));
            let Some(opened) = failures.note("opening the device", opened) else { continue };
            for case in &model.cases {
                let Some((digest, measured)) =
                    failures.note(case.name, measure(&opened, model, case, effort))
                else {
                    continue;
                };
                let same = digests.get(case.name) == Some(&digest);
                println!("{}", report::case(case.name, overlap, same, &measured));
                if !same {
                    failures.0.push(format!("{}, overlap {overlap}: another digest", case.name));
                }
                // What a worker does.
                if overlap {
                    rates.insert(case.name, measured);
                }
            }
            if model.aimed && overlap {
                let engine = Engine::on(Box::new(opened));
                for output in effort.outputs {
                    audits.extend(failures.note("an audit", audit(&engine, *output)));
                }
            }
        }
        if model.aimed {
            failures.note("timing by kernel", by_kernel(device, model, &weights, digests, effort));
        }
    }
    println!();
    report::aims(&rates, peaks, &audits).iter().for_each(|line| println!("{line}"));
    failures
}

fn upload<G: Gpu>(gpu: G, model: &Model, weights: &RandomDecoder, effort: &Effort) -> Result<Cuda<G>> {
    let room = Room { pages: Some(effort.pages(model)), ..Room::default() };
    Ok(Cuda::new(gpu, weights, room)?)
}

/// The digest of a case, and how fast it is.
fn measure(device: &dyn Device, model: &Model, case: &Case, effort: &Effort) -> Result<(String, Rates)> {
    let (mut sequences, digest) = Sequences::generate(device, case, effort.steps)?;
    let steps = (0..effort.steps).map(|_| sequences.step(device)).collect::<Result<_>>()?;
    let prefills = (0..effort.prefills).map(|_| sequences.prefill(device)).collect::<Result<_>>()?;
    Ok((digest, Rates::new(&model.arch, case, steps, prefills)))
}

/// Where the time of a step goes, and of a prefill: launches one after another, in other steps than those of the rates.
fn by_kernel<G: Gpu>(
    device: &Opener<'_, G>,
    model: &Model,
    weights: &RandomDecoder,
    digests: &Digests,
    effort: &Effort,
) -> Result<()> {
    let spent = Arc::default();
    let gpu = Timed::new((device.open)(false)?, device.time, Arc::clone(&spent));
    let device = upload(gpu, model, weights, effort)?;
    for case in &model.cases {
        let (mut sequences, digest) = Sequences::generate(&device, case, effort.steps)?;
        ensure!(digests.get(case.name) == Some(&digest), "{}: another digest", case.name);
        spent.lock().clear();
        let (what, rounds) =
            if case.name == PROMPT { ("a prefill", effort.prefills) } else { ("a step", effort.steps / 4) };
        for _ in 0..rounds {
            match case.name {
                PROMPT => sequences.prefill(&device)?,
                _ => sequences.step(&device)?,
            };
        }
        let title = format!("{what} of {}, by kernel, none overlapping with another", case.name);
        println!("\n{}", report::spent(&title, &spent.lock(), rounds));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{ALONE, BATCH};
    use crate::emulated::Emulated;
    use deepnode_emulator::Schedule;
    use deepnode_worker::model::synthetic::small;
    use std::time::Instant;

    const EFFORT: Effort = Effort { steps: 4, prefills: 2, outputs: &[3] };

    /// A model so small that the emulator runs all that a card is asked for.
    fn models() -> Vec<Model> {
        let case = |name, prompts, output| Case { name, prompts, output };
        let cases = vec![case(ALONE, vec![2], 3), case(BATCH, vec![1; 3], 2), case(PROMPT, vec![40], 1)];
        vec![Model { arch: small(), cases, aimed: true }]
    }

    fn emulated(_overlap: bool) -> Result<Emulated> {
        Ok(Emulated::new(Schedule::ALL[0]))
    }

    fn time(gpu: &mut Emulated, launches: &[Launch]) -> Result<Vec<Duration>, GpuError> {
        let one = |launch| {
            let start = Instant::now();
            gpu.run(std::slice::from_ref(launch))?;
            Ok(start.elapsed())
        };
        launches.iter().map(one).collect()
    }

    fn run_emulated(open: &dyn Fn(bool) -> Result<Emulated>, digests: &Digests) -> Vec<String> {
        run(&Opener { open, time }, &models(), digests, Peaks::default(), &EFFORT).0
    }

    /// All that is asked of a card, of the emulator: what a CPU wrote is what it gives, and another digest is a failure.
    #[test]
    fn the_emulator_passes() {
        let mut digests = crate::write(&models()).unwrap();
        assert_eq!(run_emulated(&emulated, &digests), [""; 0]);
        digests.insert(BATCH.into(), "0".into());
        let wrong = [
            "1b-16, overlap false: another digest",
            "1b-16, overlap true: another digest",
            "timing by kernel",
        ];
        assert_eq!(run_emulated(&emulated, &digests), wrong);
    }

    /// A device that is lost fails whatever is asked of it, and the rest goes on.
    #[test]
    fn a_lost_device_is_a_failure() {
        let digests = crate::write(&models()).unwrap();
        let lost = |overlap| {
            let mut gpu = emulated(overlap)?;
            gpu.fuse = overlap.then_some(30);
            Ok(gpu)
        };
        assert_eq!(run_emulated(&lost, &digests), [ALONE, BATCH, PROMPT, "an audit"]);
        let none = |_| anyhow::bail!("no card");
        let failed = ["opening the device", "opening the device", "timing by kernel"];
        assert_eq!(run_emulated(&none, &digests), failed);
    }
}
