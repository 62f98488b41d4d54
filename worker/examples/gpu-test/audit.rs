//! What auditing a receipt costs beside producing its output, both through the engine, one after another.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use deepnode_worker::canon::SamplingParams;
use deepnode_worker::engine::{Claim, Engine, Question, Request, Stop};

use crate::cases::prompt;

/// Tokens of the prompt.
pub const PROMPT: usize = 64;
/// Times that each is measured, after one that is not; the best counts.
const ROUNDS: usize = 3;

/// What an output of so many tokens takes.
#[derive(Debug)]
pub struct Audited {
    pub output: usize,
    pub producing: Duration,
    pub auditing: Duration,
}

/// Produces `output` tokens, and audits them.
pub fn audit(engine: &Engine, output: u32) -> Result<Audited> {
    let never = AtomicBool::new(false);
    let prompt = prompt(PROMPT, 0, engine.arch().vocab);
    let params = &SamplingParams::GREEDY;
    let request = Request { prompt: &prompt, params, max_output: output, stop: Stop::NONE };
    let produce = || {
        let mut session = engine.session(PROMPT + output as usize)?;
        session.generate(&request, &mut |_| (), &never)
    };
    let made = produce()?;
    let question = Question { claim: Claim::of(request, &made), beacon: [3; 32], receipt: [4; 32] };
    engine.audit(&question, &never)?;
    let (mut producing, mut auditing) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let again = produce()?;
        producing = producing.min(start.elapsed());
        ensure!(again == made, "the same request gives another output of {output} tokens");
        let start = Instant::now();
        let audit = engine.audit(&question, &never)?;
        auditing = auditing.min(start.elapsed());
        let divergence = audit.divergence;
        ensure!(divergence.is_none(), "the audit of {output} tokens says {divergence:?}");
    }
    Ok(Audited { output: made.tokens.len(), producing, auditing })
}
