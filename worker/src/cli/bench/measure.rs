//! Tokens a second, and how much of the memory's speed they reach.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cost::{bytes_a_token, cu};
use crate::canon::sample::argmax;
use crate::canon::SamplingParams;
use crate::engine::{Batch, Claim, Engine, Event, Job, Limits, Question, Request, Stop};
use crate::model::Model;

/// Tokens of a prompt, and of an answer, where the context has room for them.
const INPUT: usize = 256;
const OUTPUT: usize = 64;
/// Requests that are computed together.
const TOGETHER: usize = 8;
/// Bytes that are read to see how fast memory is: more than any cache holds.
const READ: usize = 512 << 20;
const ROUNDS: usize = 3;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    input: usize,
    output: usize,
    /// Of one prompt.
    prefill_tokens_a_second: f64,
    /// Of one sequence, a token at a time.
    decode_tokens_a_second: f64,
    together: usize,
    /// Of so many answers together.
    together_tokens_a_second: f64,
    /// Milliseconds of one answer with its prompt and the commitment to its trace.
    produced_ms: f64,
    /// Milliseconds of a whole audit of that answer: what `verify` computes of a receipt.
    audit_ms: f64,
    /// None on a card, whose own memory nothing here measures.
    memory: Option<Memory>,
    cu_a_second_alone: f64,
    cu_a_second_together: f64,
}

/// How much of the processor's memory decoding reaches, 10^9 bytes a second.
#[derive(Clone, Debug, Serialize)]
struct Memory {
    /// Weights that decoding one sequence reads.
    reached_gb_a_second: f64,
    /// What a plain sum over memory reaches with the same threads.
    sum_gb_a_second: f64,
}

impl Figures {
    pub fn of(model: &Model, engine: &Engine, threads: usize) -> anyhow::Result<Self> {
        let arch = model.arch();
        let output = OUTPUT.min(arch.context as usize / 4);
        let input = INPUT.min(arch.context as usize / 2);
        // No two prompts begin alike: what was computed before would be used again.
        let mut number = 0u32;
        let mut prompt = || -> Vec<u32> {
            number += 1;
            let id = |i: u32| (i + number * input as u32).wrapping_mul(2_654_435_761) % arch.vocab;
            (0..input as u32).map(id).collect()
        };
        let (prefill, decode) = best(|| alone(engine, &prompt(), output))?;
        let (alone, _) = best(|| batch(model, engine, vec![prompt()], output))?;
        let (together, rate) =
            best(|| batch(model, engine, (0..TOGETHER).map(|_| prompt()).collect(), output))?;
        let (produced, audited) = best(|| audit(engine, &prompt(), output))?;
        let cu = cu(arch, input as u32, output as u32) as f64;
        Ok(Self {
            input,
            output,
            prefill_tokens_a_second: prefill,
            decode_tokens_a_second: decode,
            together: TOGETHER,
            together_tokens_a_second: rate,
            produced_ms: 1e3 / produced,
            audit_ms: 1e3 / audited,
            memory: engine.on_processor().then(|| Memory {
                reached_gb_a_second: decode * bytes_a_token(&model.weights()) as f64 / 1e9,
                sum_gb_a_second: read_rate(threads) / 1e9,
            }),
            cu_a_second_alone: alone * cu,
            cu_a_second_together: together * TOGETHER as f64 * cu,
        })
    }

    /// With as many requests as make it fastest.
    pub fn cu_a_second(&self) -> f64 {
        self.cu_a_second_alone.max(self.cu_a_second_together)
    }
}

/// The best of some rounds, number by number: what else the machine does makes it slower only.
fn best(mut measure: impl FnMut() -> anyhow::Result<(f64, f64)>) -> anyhow::Result<(f64, f64)> {
    (0..ROUNDS).try_fold((0.0, 0.0), |(a, b): (f64, f64), _| {
        let (x, y) = measure()?;
        Ok((a.max(x), b.max(y)))
    })
}

/// Tokens a second of one prompt, and of what follows it.
fn alone(engine: &Engine, prompt: &[u32], output: usize) -> anyhow::Result<(f64, f64)> {
    let mut session = engine.session(prompt.len() + output)?;
    let began = Instant::now();
    session.prefill(prompt)?;
    let mut next = session.logits()?.map_or(0, argmax);
    let prefill = began.elapsed();
    let began = Instant::now();
    for _ in 0..output {
        session.step(next)?;
        next = session.logits()?.map_or(0, argmax);
    }
    let rate = |n: usize, took: Duration| n as f64 / took.as_secs_f64();
    Ok((rate(prompt.len(), prefill), rate(output, began.elapsed())))
}

/// Rounds of all requests a second, and tokens that they make a second. An answer may end early: then less was done
/// than was to be measured, and the round counts for as much as it was.
fn batch(
    model: &Model,
    engine: &Engine,
    prompts: Vec<Vec<u32>>,
    output: usize,
) -> anyhow::Result<(f64, f64)> {
    let wanted = prompts.len() * output;
    let mut batch = Batch::new(engine, model.tokenizer(), Limits::default());
    let began = Instant::now();
    for (id, prompt) in prompts.into_iter().enumerate() {
        let params = SamplingParams::GREEDY;
        let max_output = output as u32;
        batch.push(id as u64, Job { prompt, params, max_output, stop: Vec::new(), logprobs: None })?;
    }
    let mut tokens = 0;
    while !batch.is_empty() {
        batch.step(&mut |_, event| tokens += usize::from(matches!(event, Event::Token { .. })))?;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok((tokens as f64 / wanted as f64 / seconds, tokens as f64 / seconds))
}

/// Answers a second, made one after another as for a receipt, and audits of them a second.
fn audit(engine: &Engine, prompt: &[u32], output: usize) -> anyhow::Result<(f64, f64)> {
    let never = AtomicBool::new(false);
    let mut session = engine.session(prompt.len() + output)?;
    let params = &SamplingParams::GREEDY;
    let request = Request { prompt, params, max_output: output as u32, stop: Stop::NONE };
    let began = Instant::now();
    let made = session.generate(&request, &mut |_| (), &never)?;
    let produced = began.elapsed();
    let question = Question { claim: Claim::of(request, &made), beacon: [0; 32], receipt: [0; 32] };
    let began = Instant::now();
    let found = engine.audit(&question, &never)?;
    let audited = began.elapsed();
    anyhow::ensure!(found.agrees(), "an audit of this machine's own answer does not agree with it");
    Ok((1.0 / produced.as_secs_f64(), 1.0 / audited.as_secs_f64()))
}

/// Bytes a second that so many threads sum up.
fn read_rate(threads: usize) -> f64 {
    let data = vec![1u64; READ / 8];
    let part = data.len().div_ceil(threads.max(1));
    let round = || {
        let began = Instant::now();
        let sum: u64 = std::thread::scope(|scope| {
            let sums: Vec<_> =
                data.chunks(part).map(|part| scope.spawn(move || part.iter().sum::<u64>())).collect();
            sums.into_iter().filter_map(|sum| sum.join().ok()).sum()
        });
        std::hint::black_box(sum);
        READ as f64 / began.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| round()).fold(0.0, f64::max)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, output, together, .. } = self;
        writeln!(f, "prefill               {:.1} tokens/s ({input} at once)", self.prefill_tokens_a_second)?;
        writeln!(f, "decode                {:.1} tokens/s", self.decode_tokens_a_second)?;
        writeln!(
            f,
            "decode, {together} together    {:.1} tokens/s, their prompts included",
            self.together_tokens_a_second
        )?;
        let (audit, produced) = (self.audit_ms, self.produced_ms);
        writeln!(
            f,
            "audit                 {audit:.1} ms, 1/{:.1} of the {produced:.1} ms that the answer takes ({input} tokens in, {output} out)",
            produced / audit
        )?;
        if let Some(Memory { reached_gb_a_second: reached, sum_gb_a_second: sum }) = &self.memory {
            let part = 100.0 * reached / sum;
            writeln!(
                f,
                "memory                {reached:.1} GB/s of weights, {part:.0}% of the {sum:.1} GB/s that a sum reaches"
            )?;
        }
        write!(
            f,
            "compute               {:.0} CU/s alone, {:.0} CU/s with {together} requests of {input} tokens in and {output} out",
            self.cu_a_second_alone, self.cu_a_second_together
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_not_compared_with_the_processors_memory() {
        let mut figures = Figures {
            input: 1,
            output: 1,
            prefill_tokens_a_second: 1.0,
            decode_tokens_a_second: 1.0,
            together: 8,
            together_tokens_a_second: 1.0,
            produced_ms: 9.0,
            audit_ms: 2.0,
            memory: Some(Memory { reached_gb_a_second: 6.0, sum_gb_a_second: 8.0 }),
            cu_a_second_alone: 1.0,
            cu_a_second_together: 1.0,
        };
        assert!(figures.to_string().contains("6.0 GB/s of weights, 75% of the 8.0 GB/s"));
        let audit =
            "audit                 2.0 ms, 1/4.5 of the 9.0 ms that the answer takes (1 tokens in, 1 out)";
        assert!(figures.to_string().contains(audit), "{figures}");
        figures.memory = None;
        let text = figures.to_string();
        assert!(text.contains("decode") && !text.contains("memory") && !text.contains('%'), "{text}");
    }
}
