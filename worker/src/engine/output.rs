//! The output of a generation, token by token: sampling, leaves, ending.

use half::f16;

use super::ending::{Ending, Finish};
use super::session::Generation;
use crate::canon::commit::{trace_leaf, trace_root, Digest};
use crate::canon::SamplingParams;

pub(super) struct Output<'p> {
    ending: Ending<'p>,
    tokens: Vec<u32>,
    leaves: Vec<Digest>,
}

impl<'p> Output<'p> {
    pub fn new(ending: Ending<'p>) -> Self {
        Self { ending, tokens: Vec::new(), leaves: Vec::new() }
    }

    /// Chooses the next token from the activations of the last position and their logits; why the output ends with it,
    /// if it does.
    pub fn choose(
        &mut self,
        params: &SamplingParams,
        x_final: &[f16],
        logits: &[f32],
    ) -> (u32, Option<Finish>) {
        let step = self.tokens.len() as u32;
        let token = params.sample(logits, step);
        self.leaves.push(trace_leaf(step, token, x_final));
        self.tokens.push(token);
        (token, self.ending.push(token))
    }

    pub fn finish(self, finish: Finish) -> Generation {
        let Self { tokens, leaves, .. } = self;
        let trace_root = trace_root(&leaves);
        Generation { tokens, finish, leaves, trace_root }
    }
}
