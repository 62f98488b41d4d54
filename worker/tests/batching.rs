//! Generations that are computed together come out as each does alone, whatever arrives, is cancelled or evicted.

mod alone;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use deepnode_worker::canon::random::RandomDecoder;
use deepnode_worker::canon::SamplingParams;
use deepnode_worker::engine::*;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use alone::{alone, arch, pieces};

/// Positions of a sequence, at the most.
const CONTEXT: u32 = 640;

fn engine(model: &Arc<RandomDecoder>, positions: usize) -> Engine {
    let options = Options { threads: 2, huge_pages: false, positions: Some(positions), ..Options::default() };
    Engine::new(model.clone(), options).unwrap()
}

/// Prompts share beginnings, as conversations do: one of three, then a tail of their own.
fn any_job() -> impl Strategy<Value = Job> {
    let prompt = (0..3u32, 0..300usize, 0..200u32, 0..40usize).prop_map(|(topic, shared, own, len)| {
        let shared = (0..shared as u32).map(|i| (i * 31 + topic * 57) % 190);
        shared.chain((0..len as u32 + 1).map(|i| (i * 13 + own) % 190)).collect::<Vec<u32>>()
    });
    (prompt, 1..60u32, any::<bool>(), any::<u8>(), any::<bool>()).prop_map(
        |(prompt, max_output, greedy, seed, stops)| Job {
            prompt,
            params: match greedy {
                true => SamplingParams::GREEDY,
                false => SamplingParams {
                    temperature_micros: 900_000,
                    top_p_micros: 950_000,
                    top_k: 40,
                    seed: [seed; 32],
                },
            },
            max_output,
            stop: if stops { vec!["<7><".into(), "<11>".into()] } else { Vec::new() },
            logprobs: None,
        },
    )
}

/// What happens before a step.
#[derive(Clone, Debug)]
enum Change {
    Arrive(Job),
    /// The n-th that is not done, if there is one.
    Cancel(usize),
    /// Several steps without a change.
    Wait(usize),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => any_job().prop_map(Change::Arrive),
        1 => (0..4usize).prop_map(Change::Cancel),
        3 => (0..30usize).prop_map(Change::Wait),
    ]
}

/// The jobs of a batch, with what came of them so far.
#[derive(Default)]
struct Jobs {
    open: BTreeMap<u64, (Job, Vec<u32>)>,
    done: Vec<(Job, Generation)>,
    /// Steps after which more waited than before.
    preempted: u64,
}

impl Jobs {
    fn step(&mut self, batch: &mut Batch<'_>) {
        let waiting = batch.waiting();
        batch
            .step(&mut |id, event| match event {
                Event::Token { token, .. } => self.open.get_mut(&id).unwrap().1.push(token),
                Event::Finished(generation) => {
                    let (job, streamed) = self.open.remove(&id).unwrap();
                    assert_eq!(streamed, generation.tokens);
                    self.done.push((job, generation));
                }
            })
            .unwrap();
        self.preempted += u64::from(batch.waiting() > waiting);
    }
}

/// Jobs arrive, are cancelled, wait for pages and lose them; the same schedules in every run, among which each of that
/// happens.
#[test]
fn any_schedule_changes_no_bit() {
    let schedule = (
        prop::collection::vec(any_change(), 1..24),
        3..14usize,
        (1..6usize, 1..80usize).prop_map(|(running, prompt_beside)| Limits { running, prompt_beside }),
    );
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let seen = Cell::new([0; 3]);
    let outcome = runner.run(&schedule, |(changes, pages, limits)| {
        let model = Arc::new(RandomDecoder::new(arch(CONTEXT), 1));
        let pieces = pieces();
        let (together, by_itself) = (engine(&model, pages * 128), engine(&model, 640));
        let mut batch = Batch::new(&together, &pieces, limits);
        let (mut jobs, mut next) = (Jobs::default(), 0);
        for change in changes {
            match change {
                Change::Arrive(job) => {
                    let fits = job.prompt.len() + job.max_output as usize <= pages * 128;
                    prop_assert_eq!(batch.push(next, job.clone()).is_ok(), fits);
                    if fits {
                        jobs.open.insert(next, (job, Vec::new()));
                    }
                    next += 1;
                }
                Change::Cancel(n) => {
                    if let Some(id) = jobs.open.keys().nth(n).copied() {
                        batch.cancel(id);
                        jobs.open.remove(&id);
                    }
                }
                Change::Wait(steps) => (0..steps).for_each(|_| jobs.step(&mut batch)),
            }
        }
        while !batch.is_empty() {
            jobs.step(&mut batch);
        }
        prop_assert!(jobs.open.is_empty());
        for (job, generation) in &jobs.done {
            prop_assert_eq!(generation, &alone(&by_itself, job, &pieces));
        }
        // Every page is free, or in the tree and used by nobody.
        let PageUse { total, available, found, evicted } = together.page_use();
        prop_assert_eq!((total, available), (pages, pages));
        let [a, b, c] = seen.get();
        seen.set([a + found, b + evicted, c + jobs.preempted]);
        Ok(())
    });
    outcome.unwrap();
    let [found, evicted, preempted] = seen.get();
    assert!(found > 0 && evicted > 0 && preempted > 0, "{found} pages found, {evicted} evicted, {preempted}");
}

/// Thirty-two at once come out as the reference has each alone.
#[test]
fn thirty_two_at_once() {
    let model = Arc::new(RandomDecoder::new(arch(CONTEXT), 2));
    let pieces: Vec<String> = vec![String::new(); 200];
    let (together, reference) = (engine(&model, 32 * 128), Engine::reference(model.clone()).unwrap());
    let mut batch = Batch::new(&together, &pieces, Limits::default());
    let mut jobs = Jobs::default();
    for id in 0..32 {
        let prompt = (0..1 + id as u32 % 5).map(|i| (i * 7 + id as u32 * 31) % 190).collect();
        let params = match id % 2 {
            0 => SamplingParams::GREEDY,
            _ => {
                SamplingParams { temperature_micros: 900_000, seed: [id as u8; 32], ..SamplingParams::GREEDY }
            }
        };
        let job = Job { prompt, params, max_output: 12, stop: Vec::new(), logprobs: None };
        batch.push(id, job.clone()).unwrap();
        jobs.open.insert(id, (job, Vec::new()));
    }
    jobs.step(&mut batch);
    assert_eq!(batch.running() + jobs.done.len(), 32);
    while !batch.is_empty() {
        jobs.step(&mut batch);
    }
    assert_eq!(jobs.done.len(), 32);
    for (job, generation) in &jobs.done {
        assert_eq!(*generation, alone(&reference, job, &pieces));
    }
}

/// A store that is not finite ends its own sequence and no other.
#[test]
fn numeric_endings_stay_alone() {
    let pieces: Vec<String> = vec![String::new(); 200];
    let mut mixed = false;
    for factor in [6e3, 1e4, 2e4, 4e4, 8e4] {
        let mut model = RandomDecoder::new(arch(CONTEXT), 3);
        model.scale_value_row(1, 3, factor);
        let model = Arc::new(model);
        let (together, by_itself) = (engine(&model, 2000), engine(&model, 640));
        let mut batch = Batch::new(&together, &pieces, Limits::default());
        let mut jobs = Jobs::default();
        for id in 0..12 {
            let prompt = (0..20 + id as u32 * 13).map(|i| (i * 7 + id as u32 * 31) % 190).collect();
            let params = SamplingParams::GREEDY;
            let job = Job { prompt, params, max_output: 100, stop: Vec::new(), logprobs: None };
            batch.push(id, job.clone()).unwrap();
            jobs.open.insert(id, (job, Vec::new()));
        }
        while !batch.is_empty() {
            jobs.step(&mut batch);
        }
        for (job, generation) in &jobs.done {
            assert_eq!(*generation, alone(&by_itself, job, &pieces));
        }
        let numeric = jobs.done.iter().filter(|(_, done)| done.finish == Finish::Numeric).count();
        mixed |= numeric > 0 && numeric < 12;
    }
    assert!(mixed, "with some factor some overflow and some do not");
}

/// Probabilities beside each token: they are those of the logits, and the likeliest come first.
#[test]
fn logprobs_are_of_the_model() {
    let model = Arc::new(RandomDecoder::new(arch(CONTEXT), 1));
    let engine = engine(&model, 640);
    let pieces: Vec<String> = vec![String::new(); 200];
    let mut batch = Batch::new(&engine, &pieces, Limits::default());
    let prompt: Vec<u32> = (0..9).collect();
    let job = Job {
        prompt: prompt.clone(),
        params: SamplingParams::GREEDY,
        max_output: 1,
        stop: Vec::new(),
        logprobs: Some(3),
    };
    batch.push(5, job).unwrap();
    let mut seen = Vec::new();
    while !batch.is_empty() {
        batch.step(&mut |id, event| seen.push((id, event))).unwrap();
    }
    let (5, Event::Token { token, logprobs: Some(logprobs) }) = &seen[0] else { panic!("{seen:?}") };
    let mut session = engine.session(9).unwrap();
    session.prefill(&prompt).unwrap();
    let logits = session.logits().unwrap().unwrap().to_vec();
    let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    let mut order: Vec<u32> = (0..200).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    assert_eq!(logprobs.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), order[..3]);
    assert_eq!(*token, order[0]);
    for (id, probability) in &logprobs.top {
        assert!((probability.exp() - f64::from(logits[*id as usize]).exp() / total).abs() < 1e-6);
    }
    assert_eq!(logprobs.token, logprobs.top[0].1);
}
