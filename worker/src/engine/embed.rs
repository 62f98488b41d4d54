//! Texts to vectors: an encoder ready to compute.

use std::sync::Arc;

use super::{EngineError, Options};
use crate::canon::{Embedding, Encoder, EncoderArchitecture, EncoderDevice};
use crate::cpu::CpuEncoder;
use crate::model::manifest::check_encoder;

/// An encoder on this machine's CPU. Several threads may use it at once; they take turns.
pub struct Embedder {
    device: Box<dyn EncoderDevice>,
}

impl Embedder {
    /// Of `options`, instruction set and threads count.
    pub fn new<M: Encoder + 'static>(model: Arc<M>, options: Options) -> Result<Self, EngineError> {
        if !options.isa.is_available() {
            return Err(EngineError::NoInstructionSet(options.isa));
        }
        if options.threads == 0 {
            return Err(EngineError::invalid("threads", 0, "at least 1"));
        }
        check_encoder(model.arch())?;
        Ok(Self { device: Box::new(CpuEncoder::new(model, options.isa, options.threads)?) })
    }

    pub fn arch(&self) -> &EncoderArchitecture {
        self.device.arch()
    }

    /// The vectors of texts: the same bits whichever texts are computed together.
    pub fn embed(&self, texts: &[&[u32]]) -> Result<Vec<Embedding>, EngineError> {
        let (vocab, context) = (self.arch().vocab, self.arch().context as usize);
        for text in texts {
            if !(1..=context).contains(&text.len()) {
                let bound = format!("1 to the context of {context}");
                return Err(EngineError::invalid("tokens of a text", text.len(), bound));
            }
            if let Some(token) = text.iter().find(|token| **token >= vocab) {
                let bound = format!("token ids below the vocabulary of {vocab}");
                return Err(EngineError::invalid("text", token, bound));
            }
        }
        Ok(self.device.encode(texts)?)
    }
}
