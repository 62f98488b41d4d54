//! Continuous batching: many generations at once, each step computing the next positions of all of them together.
//!
//! Every generation that waits for its next token gets one position a step, and prompts what room is left, in the
//! order of arrival. What begins as another one that is being computed waits for that beginning and copies it. Where
//! pages run out, what came last gives its own back and is computed again later. A device that fails is replaced by the
//! engine's spare, where it has one. None of this can be seen in a result: it is the one that the generation would have
//! alone.

use std::collections::VecDeque;

use half::f16;

use super::ending::{Ending, Finish};
use super::error::EngineError;
use super::output::Output;
use super::pages::{Found, Held, LEAST_COPIED};
use super::session::Generation;
use super::{Engine, Pieces, CHUNK};
use crate::canon::{Run, SamplingParams, PAGE};

/// Rows of which tokens are chosen together.
const HEAD_ROWS: usize = 32;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Job {
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
    pub max_output: u32,
    pub stop: Vec<String>,
    /// How many of the likeliest tokens to tell beside each token, where probabilities are wanted at all.
    pub logprobs: Option<usize>,
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Token {
        token: u32,
        logprobs: Option<Logprobs>,
    },
    /// The last one.
    Finished(Generation),
}

/// Natural logarithms of probabilities by the model alone, whatever the sampling. Not canonical: nothing is committed
/// to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token.
    pub token: f64,
    /// The likeliest tokens, falling.
    pub top: Vec<(u32, f64)>,
}

/// How much is computed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most generations that run at once; more wait.
    pub running: usize,
    /// Most positions of prompts in a step in which generations wait for their next token.
    pub prompt_beside: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { running: 64, prompt_beside: 64 }
    }
}

/// Generations on one engine.
pub struct Batch<'e> {
    engine: &'e Engine,
    pieces: &'e dyn Pieces,
    limits: Limits,
    waiting: VecDeque<Entry<'e>>,
    /// In the order in which they were admitted.
    running: Vec<Entry<'e>>,
    logits: Vec<f32>,
}

struct Entry<'e> {
    id: u64,
    params: SamplingParams,
    logprobs: Option<usize>,
    /// Prompt and output.
    tokens: Vec<u32>,
    /// As many as there may be.
    most: usize,
    output: Output<'e>,
    /// Positions whose keys and values are on `table`.
    computed: usize,
    table: Vec<u32>,
    /// The first pages of `table`, which are in the tree.
    held: Held,
    /// Whether a store was not finite.
    bad: bool,
    /// Of the last position, when all are computed.
    x_final: Vec<f16>,
}

impl Entry<'_> {
    fn left(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Gives all pages back; what they hold stays to be found.
    fn release(&mut self, engine: &Engine) {
        let mut pages = engine.pages.lock();
        let shared = self.held.len();
        let mut own = self.table.drain(..).skip(shared);
        let rest = &self.tokens[shared * PAGE..self.computed.max(shared * PAGE)];
        let tail = (!self.bad && !rest.is_empty()).then(|| own.next()).flatten().map(|page| (rest, page));
        pages.release(std::mem::take(&mut self.held), tail);
        pages.give(own);
        self.computed = 0;
        self.bad = false;
    }
}

impl<'e> Batch<'e> {
    /// A batch without jobs. `pieces` are what stop strings are looked for in.
    pub fn new(engine: &'e Engine, pieces: &'e dyn Pieces, limits: Limits) -> Self {
        let engine = engine.current();
        Self { engine, pieces, limits, waiting: VecDeque::new(), running: Vec::new(), logits: Vec::new() }
    }

    /// Adds a job under a number that no other job of the batch has. Fails where the job could never be computed.
    pub fn push(&mut self, id: u64, job: Job) -> Result<(), EngineError> {
        let Job { prompt, params, max_output, stop, logprobs } = job;
        self.engine.check_request(&prompt, &params, max_output)?;
        let ending = Ending::new(&self.engine.arch().eos, max_output, &stop, self.pieces)?;
        let most = prompt.len() + max_output as usize;
        let wanted = most.div_ceil(PAGE);
        let total = self.engine.pages.lock().total();
        if wanted > total {
            return Err(EngineError::NoPages { wanted, total });
        }
        let output = Output::new(ending);
        self.waiting.push_back(Entry {
            id,
            params,
            logprobs,
            tokens: prompt,
            most,
            output,
            computed: 0,
            table: Vec::new(),
            held: Held::default(),
            bad: false,
            x_final: Vec::new(),
        });
        Ok(())
    }

    /// Forgets a job.
    pub fn cancel(&mut self, id: u64) {
        self.waiting.retain(|entry| entry.id != id);
        if let Some(at) = self.running.iter().position(|entry| entry.id == id) {
            self.running.remove(at).release(self.engine);
        }
    }

    /// Whether nothing is left to compute.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Jobs that have pages.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Jobs that wait for pages, or for their turn.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Computes the next positions and tells what came of them. After an error nothing that was computed is used: all
    /// jobs begin again from the tokens they have, on the engine's spare if the device failed and there is one.
    pub fn step(&mut self, on_event: &mut dyn FnMut(u64, Event)) -> Result<(), EngineError> {
        let result = self.admit().and_then(|()| {
            let shares = self.shares();
            self.compute(&shares)?;
            self.choose(on_event)
        });
        let Err(error) = result else { return Ok(()) };
        while self.preempt_last() {}
        let EngineError::Device(failed) = &error else { return Err(error) };
        let Some(spare) = self.engine.fall_over(failed) else { return Err(error) };
        let total = spare.pages.lock().total();
        if self.waiting.iter().any(|entry| entry.most.div_ceil(PAGE) > total) {
            return Err(error);
        }
        self.engine = spare;
        Ok(())
    }

    /// Lets jobs in as long as there are pages for all tokens they have.
    fn admit(&mut self) -> Result<(), EngineError> {
        let mut next = 0;
        while self.running.len() < self.limits.running {
            let Some(entry) = self.waiting.get(next) else { break };
            // The last position is computed anyway: the next token comes from it.
            let wanted = &entry.tokens[..entry.tokens.len() - 1];
            let mut pages = self.engine.pages.lock();
            let Found { held, pages: found, mut tail } = pages.find(wanted);
            let known = found.len() * PAGE + tail.map_or(0, |(_, len)| len);
            if let Some((other, common)) = self.nearest(wanted, known) {
                if other.computed < common && other.left() > 1 {
                    // Computed once, it is there for both. (Of one that decodes only the newest token is not there yet.)
                    pages.release(held, None);
                    next += 1;
                    continue;
                }
                // Of whole pages the tree has all that are computed.
                let (at, common) = (found.len(), common.min(other.computed));
                let rest = common.saturating_sub(at * PAGE).min(PAGE);
                tail = other.table.get(at).map(|page| (*page, rest)).filter(|(_, len)| *len > 0);
            }
            let Some(mut entry) = self.waiting.remove(next) else { break };
            let wanted = (entry.tokens.len() + 1).div_ceil(PAGE) - found.len();
            if !self.running.is_empty() && pages.available() < wanted {
                pages.release(held, None);
                self.waiting.insert(next, entry);
                break;
            }
            entry.computed = found.len() * PAGE;
            entry.table = found;
            entry.held = held;
            let copy = tail.and_then(|(from, len)| Some((from, pages.take()?, len)));
            entry.table.extend(copy.map(|(_, to, _)| to));
            // From here on it gives its pages back, whatever happens.
            self.running.push(entry);
            if let (Some((from, to, len)), Some(entry)) = (copy, self.running.last_mut()) {
                self.engine.device.copy_page(from, to)?;
                entry.computed += len;
            }
        }
        Ok(())
    }

    /// The running job that begins with the most of `wanted`, and how much, if that is worth more than the `known`
    /// tokens that are there already.
    fn nearest(&self, wanted: &[u32], known: usize) -> Option<(&Entry<'e>, usize)> {
        let common = |entry: &Entry<'e>| entry.tokens.iter().zip(wanted).take_while(|(a, b)| a == b).count();
        let sound = self.running.iter().filter(|entry| !entry.bad);
        let best = sound.map(|entry| (entry, common(entry))).max_by_key(|(e, common)| (*common, e.computed));
        best.filter(|(_, common)| *common >= known + LEAST_COPIED)
    }

    /// Sends the job that was admitted last back to wait.
    fn preempt_last(&mut self) -> bool {
        let Some(mut entry) = self.running.pop() else { return false };
        entry.release(self.engine);
        self.waiting.push_front(entry);
        true
    }

    /// How many positions each running job gets in this step, with pages for them.
    fn shares(&mut self) -> Vec<usize> {
        let decoding = self.running.iter().filter(|entry| entry.left() == 1).count();
        let mut room = if decoding > 0 { self.limits.prompt_beside.max(1) } else { CHUNK };
        let mut shares = Vec::new();
        while let Some(entry) = self.running.get(shares.len()) {
            let share = if entry.left() == 1 { 1 } else { entry.left().min(room) };
            if self.make_room(shares.len(), share) {
                room -= if share > 1 { share } else { 0 };
                shares.push(share);
            }
        }
        shares
    }

    /// Pages for `share` more positions of the job at `at`, if need be those of jobs that were admitted after it, or
    /// else the job goes itself.
    fn make_room(&mut self, at: usize, share: usize) -> bool {
        loop {
            let entry = &mut self.running[at];
            if entry.table.len() * PAGE >= entry.computed + share {
                return true;
            }
            let page = self.engine.pages.lock().take();
            match page {
                Some(page) => entry.table.push(page),
                None => {
                    let own = self.running.len() - 1 == at;
                    self.preempt_last();
                    if own {
                        return false;
                    }
                }
            }
        }
    }

    fn compute(&mut self, shares: &[usize]) -> Result<(), EngineError> {
        let with_share = || self.running.iter().zip(shares).filter(|(_, share)| **share > 0);
        let runs: Vec<Run<'_>> = with_share()
            .map(|(entry, share)| Run {
                tokens: &entry.tokens[entry.computed..entry.computed + share],
                first: entry.computed,
                pages: &entry.table,
            })
            .collect();
        if runs.is_empty() {
            return Ok(());
        }
        let step = self.engine.device.forward(&runs, None)?;
        let width = self.engine.arch().width as usize;
        let mut row = 0;
        let mut pages = self.engine.pages.lock();
        for (entry, share) in self.running.iter_mut().zip(shares).filter(|(_, share)| **share > 0) {
            entry.bad |= step.finite[row..row + share].contains(&false);
            entry.computed += share;
            row += share;
            if !entry.bad {
                while (entry.held.len() + 1) * PAGE <= entry.computed {
                    let i = entry.held.len();
                    let tokens = &entry.tokens[i * PAGE..(i + 1) * PAGE];
                    entry.table[i] = pages.share(&mut entry.held, tokens, entry.table[i]);
                }
            }
            if entry.left() == 0 {
                entry.x_final.clear();
                entry.x_final.extend(&step.x_final[(row - 1) * width..row * width]);
            }
        }
        Ok(())
    }

    /// The next token of each job whose positions are all computed.
    fn choose(&mut self, on_event: &mut dyn FnMut(u64, Event)) -> Result<(), EngineError> {
        let vocab = self.engine.arch().vocab as usize;
        let mut ended: Vec<(usize, Finish)> = Vec::new();
        let mut ready: Vec<(usize, &mut Entry<'e>)> = Vec::new();
        for (i, entry) in self.running.iter_mut().enumerate().filter(|(_, entry)| entry.left() == 0) {
            match entry.bad {
                true => ended.push((i, Finish::Numeric)),
                false => ready.push((i, entry)),
            }
        }
        let mut failed = None;
        // Those who ask for logits by themselves: a card need not copy the others'.
        let (mut asked, mut plain): (Vec<_>, Vec<_>) =
            ready.into_iter().partition(|(_, entry)| entry.logprobs.is_some());
        for some in plain.chunks_mut(HEAD_ROWS).chain(asked.chunks_mut(HEAD_ROWS)) {
            let x: Vec<_> = some.iter().flat_map(|(_, entry)| entry.x_final.iter().copied()).collect();
            let choices: Vec<_> = some.iter().map(|(_, entry)| (entry.params, entry.output.step())).collect();
            let asked = some[0].1.logprobs.is_some();
            self.logits.resize(if asked { some.len() * vocab } else { 0 }, 0.0);
            let device = &self.engine.device;
            let chosen = if asked {
                device.logits(&x, &mut self.logits).map(|()| {
                    let rows = choices.iter().zip(self.logits.chunks_exact(vocab));
                    rows.map(|((params, step), logits)| params.sample(logits, *step)).collect()
                })
            } else {
                device.sample(&x, &choices)
            };
            let tokens = match chosen {
                Ok(tokens) => tokens,
                Err(error) => {
                    // Who got a token before that may have ended with it.
                    failed = Some(error);
                    break;
                }
            };
            for (row, ((i, entry), token)) in some.iter_mut().zip(tokens).enumerate() {
                let finish = entry.output.push(token, &entry.x_final);
                let logprobs = entry
                    .logprobs
                    .map(|top| Logprobs::new(token, top, &self.logits[row * vocab..(row + 1) * vocab]));
                entry.tokens.push(token);
                on_event(entry.id, Event::Token { token, logprobs });
                ended.extend(finish.map(|finish| (*i, finish)));
            }
        }
        ended.sort_by_key(|(i, _)| *i);
        for (i, finish) in ended.into_iter().rev() {
            let mut entry = self.running.remove(i);
            entry.release(self.engine);
            on_event(entry.id, Event::Finished(entry.output.finish(finish)));
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.running.iter_mut().for_each(|entry| entry.release(self.engine));
    }
}

impl Logprobs {
    fn new(token: u32, top: usize, logits: &[f32]) -> Self {
        let max = logits.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x));
        let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
        let of = |logit: f32| f64::from(logit - max) - sum.ln();
        let mut best: Vec<(u32, f32)> = Vec::new();
        for (id, logit) in (0..).zip(logits) {
            if best.len() < top || best.last().is_some_and(|(_, least)| logit > least) {
                let at = best.partition_point(|(_, other)| other >= logit);
                best.insert(at, (id, *logit));
                best.truncate(top);
            }
        }
        Self {
            token: of(logits[token as usize]),
            top: best.into_iter().map(|(id, logit)| (id, of(logit))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::canon::random::RandomDecoder;
    use crate::canon::reference::Reference;
    use crate::canon::{Architecture, Device, DeviceError, Forward, Tap};
    use crate::model::synthetic::small;

    /// A device that copies no page.
    struct NoCopies(Reference<RandomDecoder>);

    impl Device for NoCopies {
        fn arch(&self) -> &Architecture {
            self.0.arch()
        }

        fn pages(&self) -> usize {
            4
        }

        fn forward(&self, runs: &[Run<'_>], tap: Option<&mut Tap<'_>>) -> Result<Forward, DeviceError> {
            self.0.forward(runs, tap)
        }

        fn logits(&self, x_final: &[f16], logits: &mut [f32]) -> Result<(), DeviceError> {
            self.0.logits(x_final, logits)
        }

        fn copy_page(&self, _: u32, _: u32) -> Result<(), DeviceError> {
            Err(DeviceError("no copies".into()))
        }
    }

    /// A job that a failing device takes from keeps no page, and no job loses its place.
    #[test]
    fn a_copy_that_fails_leaves_no_page_behind() {
        let engine = Engine::on(Box::new(NoCopies(Reference::new(Arc::new(RandomDecoder::new(small(), 1))))));
        let pieces = vec![String::new(); 288];
        let job = Job {
            prompt: (0..40).collect(),
            params: SamplingParams::GREEDY,
            max_output: 2,
            stop: Vec::new(),
            logprobs: None,
        };
        let mut batch = Batch::new(&engine, &pieces, Limits::default());
        batch.push(0, job.clone()).unwrap();
        while !batch.is_empty() {
            batch.step(&mut |_, _| ()).unwrap();
        }
        // What the first left is found, and is to be copied.
        batch.push(1, job).unwrap();
        for _ in 0..2 {
            assert!(matches!(batch.step(&mut |_, _| ()), Err(EngineError::Device(_))));
            assert_eq!((batch.running(), batch.waiting()), (0, 1));
            assert_eq!(engine.pages.lock().available(), 4);
        }
    }

    /// A prompt that holds what another job is yet to answer does not wait for that answer.
    #[test]
    fn nobody_waits_for_tokens_that_are_yet_to_be_decoded() {
        let engine = Engine::reference(Arc::new(RandomDecoder::new(small(), 1))).unwrap();
        let pieces = vec![String::new(); 288];
        let job = |prompt, max_output| Job {
            prompt,
            params: SamplingParams::GREEDY,
            max_output,
            stop: Vec::new(),
            logprobs: None,
        };
        let answer = |engine: &Engine, jobs: &[Job], steps: usize| {
            let mut batch = Batch::new(engine, &pieces, Limits::default());
            let mut tokens = vec![Vec::new(); jobs.len()];
            for (id, job) in jobs.iter().enumerate() {
                batch.push(id as u64, job.clone()).unwrap();
            }
            for step in 0.. {
                assert!(step != steps || batch.waiting() == 0, "one waits");
                if batch.is_empty() {
                    return tokens;
                }
                let mut hear = |id: u64, event| {
                    if let Event::Token { token, .. } = event {
                        tokens[id as usize].push(token);
                    }
                };
                batch.step(&mut hear).unwrap();
            }
            tokens
        };
        let first = job((0..60).collect(), 60);
        let answered = answer(&engine, std::slice::from_ref(&first), 1).remove(0);
        assert_eq!(answered.len(), 60);
        let second = job(first.prompt.iter().chain(&answered).copied().chain(200..210).collect(), 4);
        let alone = answer(&engine, std::slice::from_ref(&second), 1).remove(0);
        let fresh = Engine::reference(Arc::new(RandomDecoder::new(small(), 1))).unwrap();
        assert_eq!(answer(&fresh, &[first, second], 3), [answered, alone]);
    }
}
