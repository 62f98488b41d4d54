//! The output of a generation, token by token: leaves, ending.

use half::f16;

use super::ending::{Ending, Finish};
use super::session::Generation;
use crate::canon::commit::{trace_leaf, trace_root, Digest};

pub(super) struct Output<'p> {
    ending: Ending<'p>,
    tokens: Vec<u32>,
    leaves: Vec<Digest>,
}

impl<'p> Output<'p> {
    pub fn new(ending: Ending<'p>) -> Self {
        Self { ending, tokens: Vec::new(), leaves: Vec::new() }
    }

    /// The step of the next token.
    pub fn step(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Takes the next token, which the activations of the last position gave; why the output ends with it, if it does.
    pub fn push(&mut self, token: u32, x_final: &[f16]) -> Option<Finish> {
        self.leaves.push(trace_leaf(self.step(), token, x_final));
        self.tokens.push(token);
        self.ending.push(token)
    }

    pub fn finish(self, finish: Finish) -> Generation {
        let Self { tokens, leaves, .. } = self;
        let trace_root = trace_root(&leaves);
        Generation { tokens, finish, leaves, trace_root }
    }
}
