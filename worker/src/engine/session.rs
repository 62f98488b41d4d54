//! One sequence: its keys and values, and generating from them.

use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;

use super::ending::{Ending, Finish, Stop};
use super::error::EngineError;
use super::{Engine, CHUNK};
use crate::canon::commit::{trace_leaf, trace_root, Digest};
use crate::canon::{SamplingParams, Sequence};

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
    sequence: Box<dyn Sequence + 'e>,
    tokens: Vec<u32>,
    /// The first position with a store that was not finite.
    bad: Option<usize>,
    /// Of the last position.
    x_final: Vec<f16>,
    logits: Vec<f32>,
}

impl<'e> Session<'e> {
    pub(super) fn new(engine: &'e Engine, sequence: Box<dyn Sequence + 'e>) -> Self {
        let logits = vec![0.0; engine.arch().vocab as usize];
        Self { engine, sequence, tokens: Vec::new(), bad: None, x_final: Vec::new(), logits }
    }

    /// The tokens so far, one a position.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.sequence.capacity()
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
        let step = self.sequence.forward(tokens, None);
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
            self.sequence.truncate(len);
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
    pub fn logits(&mut self) -> Option<&[f32]> {
        if self.x_final.is_empty() {
            return None;
        }
        self.engine.backend.logits(&self.x_final, &mut self.logits);
        Some(&self.logits)
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
        let mut ending = request.check(self.engine)?;
        let total = request.prompt.len() + request.max_output as usize;
        if total > self.capacity() {
            let bound = format!("at most the session's {}", self.capacity());
            return Err(EngineError::invalid("prompt and max_output together", total, bound));
        }
        self.rewind_to(request.prompt, cancel)?;
        let (mut tokens, mut leaves) = (Vec::new(), Vec::new());
        let finish = loop {
            if self.bad.is_some() {
                break Finish::Numeric;
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            let step = tokens.len() as u32;
            self.engine.backend.logits(&self.x_final, &mut self.logits);
            let token = request.params.sample(&self.logits, step);
            leaves.push(trace_leaf(step, token, &self.x_final));
            tokens.push(token);
            on_token(token);
            if let Some(finish) = ending.push(token) {
                break finish;
            }
            self.step(token)?;
        };
        let trace_root = trace_root(&leaves);
        Ok(Generation { tokens, finish, leaves, trace_root })
    }
}

impl<'a> Request<'a> {
    /// Checks every bound; answers what follows the output to its end.
    pub(super) fn check<'e>(&self, engine: &'e Engine) -> Result<Ending<'e, 'a>, EngineError> {
        self.params.validate()?;
        if self.prompt.is_empty() {
            return Err(EngineError::invalid("prompt", "empty", "at least one token"));
        }
        engine.check_tokens("prompt", self.prompt)?;
        let total = self.prompt.len() + self.max_output as usize;
        let context = engine.arch().context;
        if total > context as usize {
            let bound = format!("at most the context of {context}");
            return Err(EngineError::invalid("prompt and max_output together", total, bound));
        }
        Ending::new(&engine.arch().eos, self.max_output, self.stop)
    }
}
