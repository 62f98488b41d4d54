//! One sequence: its keys and values, and generating from them.

use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;

use super::ending::{Ending, Finish, Stop};
use super::error::EngineError;
use super::output::Output;
use super::{Engine, Own, CHUNK};
use crate::canon::{Digest, Run, SamplingParams};

/// What to generate.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// At least one token.
    pub prompt: &'a [u32],
    pub params: &'a SamplingParams,
    /// Most tokens to generate, at least 1.
    pub max_output: u32,
    pub stop: Stop<'a>,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The output, an end token included.
    pub tokens: Vec<u32>,
    pub finish: Finish,
    /// One leaf a token.
    pub leaves: Vec<Digest>,
    pub trace_root: Digest,
}

/// Keys and values of one sequence, and the logits of its last position.
pub struct Session<'e> {
    engine: &'e Engine,
    pages: Own<'e>,
    capacity: usize,
    tokens: Vec<u32>,
    /// The first position with a store that was not finite.
    bad: Option<usize>,
    /// Of the last position.
    x_final: Vec<f16>,
    logits: Vec<f32>,
}

impl<'e> Session<'e> {
    pub(super) fn new(engine: &'e Engine, capacity: usize) -> Result<Self, EngineError> {
        let pages = engine.take_pages(capacity)?;
        let (x_final, logits) = (Vec::new(), Vec::new());
        Ok(Self { engine, pages, capacity, tokens: Vec::new(), bad: None, x_final, logits })
    }

    /// The tokens so far, one a position.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Computes `tokens` at the next positions.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<(), EngineError> {
        self.engine.check_tokens("prefill", tokens)?;
        let room = self.capacity() - self.tokens.len();
        if tokens.len() > room {
            return Err(EngineError::invalid("prefill", tokens.len(), format!("at most {room} more tokens")));
        }
        if tokens.is_empty() {
            return Ok(());
        }
        let run = Run { tokens, first: self.tokens.len(), pages: &self.pages };
        let step = self.engine.device.forward(&[run], None)?;
        if let Some(first) = step.finite.iter().position(|finite| !finite) {
            self.bad.get_or_insert(self.tokens.len() + first);
        }
        let width = self.engine.arch().width as usize;
        self.x_final.clear();
        self.x_final.extend(&step.x_final[step.x_final.len() - width..]);
        self.tokens.extend(tokens);
        Ok(())
    }

    /// Computes one token at the next position.
    pub fn step(&mut self, token: u32) -> Result<(), EngineError> {
        self.prefill(&[token])
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len < self.tokens.len() {
            self.tokens.truncate(len);
            self.bad = self.bad.filter(|bad| *bad < len);
            self.x_final.clear();
        }
    }

    /// The first position with a store that was not finite.
    pub fn first_not_finite(&self) -> Option<usize> {
        self.bad
    }

    /// The final activations of the last position; empty where there is none, or where it was forgotten.
    pub fn x_final(&self) -> &[f16] {
        &self.x_final
    }

    /// Logits of the last position, by token id; none where there is none, or where it was forgotten.
    pub fn logits(&mut self) -> Result<Option<&[f32]>, EngineError> {
        if self.x_final.is_empty() {
            return Ok(None);
        }
        self.logits.resize(self.engine.arch().vocab as usize, 0.0);
        self.engine.device.logits(&self.x_final, &mut self.logits)?;
        Ok(Some(&self.logits))
    }

    /// Makes this session hold exactly `prompt`, keeping what it already holds of it. Any way of getting there gives
    /// the same bits.
    fn rewind_to(&mut self, prompt: &[u32], cancel: &AtomicBool) -> Result<(), EngineError> {
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last position is computed anew, for its final activations.
        self.truncate(common.min(prompt.len() - 1));
        for chunk in prompt[self.tokens.len()..].chunks(CHUNK) {
            if cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            self.prefill(chunk)?;
        }
        Ok(())
    }

    /// Generates an answer to the request's prompt, whatever the session holds: what it shares with the prompt is used
    /// again, the rest is forgotten. `on_token` sees each token as it comes; setting `cancel` ends the call with an
    /// error before the next one.
    pub fn generate(
        &mut self,
        request: &Request<'_>,
        on_token: &mut dyn FnMut(u32),
        cancel: &AtomicBool,
    ) -> Result<Generation, EngineError> {
        let mut output = Output::new(request.check(self.engine)?);
        let total = request.prompt.len() + request.max_output as usize;
        if total > self.capacity() {
            let bound = format!("at most the session's {}", self.capacity());
            return Err(EngineError::invalid("prompt and max_output together", total, bound));
        }
        self.rewind_to(request.prompt, cancel)?;
        let finish = loop {
            if self.bad.is_some() {
                break Finish::Numeric;
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            let token = self.engine.device.sample(&self.x_final, &[(*request.params, output.step())])?[0];
            let finish = output.push(token, &self.x_final);
            on_token(token);
            if let Some(finish) = finish {
                break finish;
            }
            self.step(token)?;
        };
        Ok(output.finish(finish))
    }
}

impl<'a> Request<'a> {
    /// Checks every bound; answers what follows the output to its end.
    pub(super) fn check(&self, engine: &Engine) -> Result<Ending<'a>, EngineError> {
        engine.check_request(self.prompt, self.params, self.max_output)?;
        Ending::new(&engine.arch().eos, self.max_output, self.stop.strings, self.stop.pieces)
    }
}
