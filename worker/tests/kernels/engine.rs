//! The engine over the kernels: its scheduler, its pages, its audits and traces, on the emulated device.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use deepnode_emulator::Schedule;
use deepnode_worker::canon::packed::Packing;
use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::{Decoder, SamplingParams};
use deepnode_worker::cuda::{Cuda, Room};
use deepnode_worker::engine::*;

use crate::alone::{alone, arch, pieces};
use crate::emulated::Emulated;

/// Positions of a sequence, at the most.
const CONTEXT: u32 = 384;

/// An engine on the emulated device, and the reference.
fn engines(model: RandomDecoder, schedule: Schedule, pages: usize) -> [Engine; 2] {
    let room = Room { rows: 100, pages: Some(pages) };
    let device = Cuda::new(Emulated::new(schedule), &model, room).unwrap();
    [Engine::on(Box::new(device)), Engine::reference(Arc::new(model)).unwrap()]
}

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)) >> 32) as u32 % n
    }

    /// Prompts share beginnings, as conversations do: one of two, then a tail of their own.
    fn job(&mut self) -> Job {
        let (topic, own) = (self.below(2), self.below(190));
        let shared = (0..self.below(2) * (110 + self.below(60))).map(|i| (i * 31 + topic * 57) % 190);
        let prompt = shared.chain((0..1 + self.below(12)).map(|i| (i * 13 + own) % 190)).collect();
        let logprobs = (self.below(5) == 0).then_some(2);
        Job {
            prompt,
            params: self.params(),
            max_output: 1 + self.below(20),
            stop: vec!["<7>".into()],
            logprobs,
        }
    }

    fn params(&mut self) -> SamplingParams {
        match self.below(2) {
            0 => SamplingParams::GREEDY,
            _ => SamplingParams {
                temperature_micros: 900_000,
                top_p_micros: 950_000,
                top_k: 8,
                seed: [self.below(256) as u8; 32],
            },
        }
    }
}

/// Jobs arrive and are cancelled; they wait for pages, lose them to others and find what others computed. Each comes out as
/// the reference has it alone.
#[test]
fn any_schedule_changes_no_bit() {
    let pieces = pieces();
    let mut seen = PageUse::default();
    let (mut preempted, mut widest) = (0, 0);
    for (seed, schedule) in (0..).zip(&Schedule::ALL[1..4]) {
        const PAGES: usize = 5;
        let [device, reference] = engines(RandomDecoder::new(arch(CONTEXT), seed), *schedule, PAGES);
        let mut draw = Draw(seed);
        let limits = Limits { running: 2 + seed as usize * 2, prompt_beside: 40 };
        let mut batch = Batch::new(&device, &pieces, limits);
        let (mut jobs, mut done) = (BTreeMap::new(), Vec::new());
        for change in 0..60 {
            match draw.below(4) {
                0 | 1 if change < 30 => {
                    let job = draw.job();
                    batch.push(change, job.clone()).unwrap();
                    jobs.insert(change, job);
                }
                2 if change % 4 == 0 => {
                    let other = jobs.keys().nth(draw.below(3) as usize).copied();
                    other.into_iter().for_each(|id| {
                        batch.cancel(id);
                        jobs.remove(&id);
                    });
                }
                _ => {}
            }
            loop {
                let waiting = batch.waiting();
                let on_event = &mut |id, event| {
                    if let Event::Finished(generation) = event {
                        done.push((jobs.remove(&id).unwrap(), generation));
                    }
                };
                batch.step(on_event).unwrap();
                preempted += u32::from(batch.waiting() > waiting);
                widest = widest.max(batch.running());
                if change < 59 || batch.is_empty() {
                    break;
                }
            }
        }
        assert!(jobs.is_empty() && done.len() > 6, "{} done", done.len());
        for (job, generation) in &done {
            assert_eq!(*generation, alone(&reference, job, &pieces), "seed {seed}");
        }
        let PageUse { total, available, found, evicted } = device.page_use();
        assert_eq!((total, available), (PAGES, PAGES));
        (seen.found, seen.evicted) = (seen.found + found, seen.evicted + evicted);
    }
    assert!(seen.found > 0 && seen.evicted > 0 && preempted > 0, "{seen:?}, {preempted} preempted");
    assert!(widest > 3, "{widest} at once");
}

/// Whole generations alone, and thirty-two together.
#[test]
fn one_and_thirty_two_at_once() {
    let pieces = pieces();
    let [device, reference] = engines(RandomDecoder::new(arch(CONTEXT), 5), Schedule::ALL[0], 32);
    let mut draw = Draw(5);
    let jobs: Vec<Job> = (0..32)
        .map(|i| Job {
            prompt: (0..1 + i % 3).map(|j| (i * 31 + j * 7) % 190).collect(),
            params: draw.params(),
            max_output: 4,
            stop: Vec::new(),
            logprobs: None,
        })
        .collect();
    let want: Vec<Generation> = jobs.iter().map(|job| alone(&reference, job, &pieces)).collect();
    for i in 0..3 {
        assert_eq!(alone(&device, &jobs[i], &pieces), want[i]);
    }
    let mut batch = Batch::new(&device, &pieces, Limits::default());
    for (id, job) in (0..).zip(&jobs) {
        batch.push(id, job.clone()).unwrap();
    }
    let mut got = vec![None; jobs.len()];
    while !batch.is_empty() {
        batch
            .step(&mut |id, event| {
                if let Event::Finished(generation) = event {
                    got[id as usize] = Some(generation);
                }
            })
            .unwrap();
    }
    assert!(got.into_iter().eq(want.into_iter().map(Some)));
}

/// Weights that stay quantised in the model file: a generation, its audit, and every tensor of its trace.
#[test]
fn generations_of_packed_weights_are_audited() {
    let go = AtomicBool::new(false);
    for packing in [Packing::Q8_0, Packing::Q4_0] {
        let model = RandomDecoder::new(arch(CONTEXT), 6).packed(packing);
        assert_eq!(model.weights().layers[1].down.packing, Some(packing));
        let [device, reference] = engines(model, Schedule::ALL[4], 6);
        let prompt: Vec<u32> = (0..125).map(|i| i * 37 % 190).collect();
        let params = Draw(3).params();
        let request = Request { prompt: &prompt, params: &params, max_output: 6, stop: Stop::NONE };
        let [got, want] = [&device, &reference]
            .map(|engine| engine.session(131).unwrap().generate(&request, &mut |_| (), &go).unwrap());
        assert_eq!(got, want, "{packing:?}");

        let right = Claim::of(request, &want);
        let mut wrong_tokens = want.tokens.clone();
        wrong_tokens[2] = (wrong_tokens[2] + 1) % 190;
        let wrong = Claim { output: &wrong_tokens, ..right };
        for (claim, agrees) in [(right, true), (wrong, false)] {
            let question = Question { claim, beacon: [9; 32], receipt: [7; 32] };
            let [got, want] = [&device, &reference].map(|engine| engine.audit(&question, &go).unwrap());
            assert_eq!((got.agrees(), got), (agrees, want), "{packing:?}");
        }

        let tokens = [&prompt[..], &want.tokens].concat();
        let [got, want] = [&device, &reference]
            .map(|engine| engine.trace([1; 32], "here".into(), &tokens, &|_| false).unwrap());
        assert_eq!(difference(&got, &want), None, "{packing:?}");
        assert_eq!(got, want);
    }
}
