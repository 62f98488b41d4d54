//! The engine's public face: generating and auditing on any implementation of canon/1.
//!
//! An [`Engine`] holds a model ready to compute, a [`Session`] the keys and values of one sequence. What
//! [`Session::generate`] yields and what [`Engine::audit`] recomputes is the same on every machine, bit for bit.

mod audit;
mod ending;
mod error;
mod session;

use std::sync::Arc;

pub use audit::{Audit, Claim, Divergence};
pub use ending::{Finish, Pieces, Stop};
pub use error::EngineError;
pub use session::{Generation, Request, Session};

use crate::canon::reference::Reference;
use crate::canon::{Architecture, Backend, Decoder};
use crate::cpu::{Cpu, Isa, Resident};
use crate::model::manifest::check_architecture;

/// Positions that are computed before anyone looks whether to go on.
const CHUNK: usize = 512;

/// How to compute on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub isa: Isa,
    /// Threads that compute, at least 1; more than there are cores makes it slower.
    pub threads: usize,
    /// Copy the weights into huge pages, where memory allows: decoding, which waits for memory, gets about a quarter
    /// faster. Mapped weights are shared by all processes and cost nothing twice.
    pub huge_pages: bool,
}

impl Default for Options {
    /// The best instruction set, every core, huge pages.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { isa: Isa::detect(), threads, huge_pages: true }
    }
}

/// A model ready to compute. Sessions of several threads may use it at once; they take turns.
pub struct Engine {
    backend: Box<dyn Backend>,
}

impl Engine {
    /// An engine on this machine's CPU.
    pub fn new<M: Decoder + 'static>(model: Arc<M>, options: Options) -> Result<Self, EngineError> {
        if !options.isa.is_available() {
            return Err(EngineError::NoInstructionSet(options.isa));
        }
        if options.threads == 0 {
            return Err(EngineError::invalid("threads", 0, "at least 1"));
        }
        check(&*model)?;
        let Options { isa, threads, huge_pages } = options;
        let backend: Box<dyn Backend> = match huge_pages.then(|| Resident::copy(&model)).flatten() {
            Some(resident) => Box::new(Cpu::new(Arc::new(resident), isa, threads)?),
            None => Box::new(Cpu::new(model, isa, threads)?),
        };
        Ok(Self { backend })
    }

    /// An engine that computes by the scalar reference: slow, for checking the others.
    pub fn reference<M: Decoder + 'static>(model: Arc<M>) -> Result<Self, EngineError> {
        check(&*model)?;
        Ok(Self { backend: Box::new(Reference::new(model)) })
    }

    pub fn arch(&self) -> &Architecture {
        self.backend.arch()
    }

    /// An empty session with room for `capacity` positions: of a generation, prompt and greatest output together.
    pub fn session(&self, capacity: usize) -> Result<Session<'_>, EngineError> {
        let context = self.arch().context;
        if capacity == 0 || capacity > context as usize {
            return Err(EngineError::invalid("capacity", capacity, format!("1 to the context of {context}")));
        }
        Ok(Session::new(self, self.backend.open(capacity)?))
    }

    /// Checks that all tokens are below the vocabulary.
    fn check_tokens(&self, field: &'static str, tokens: &[u32]) -> Result<(), EngineError> {
        let vocab = self.arch().vocab;
        match tokens.iter().find(|t| **t >= vocab) {
            Some(token) => {
                Err(EngineError::invalid(field, token, format!("token ids below the vocabulary of {vocab}")))
            }
            None => Ok(()),
        }
    }
}

/// Checks that every weight has the shape that the architecture gives it.
fn check(model: &dyn Decoder) -> Result<(), EngineError> {
    let (arch, weights) = (model.arch(), model.weights());
    check_architecture(arch)?;
    let mut matrices = vec![
        ("embedding", weights.embedding, arch.vocab, arch.width),
        ("head", weights.head, arch.vocab, arch.width),
    ];
    let mut vectors = vec![("final gain", Some(weights.final_gain), arch.width)];
    for w in &weights.layers {
        matrices.extend([
            ("q", w.q, arch.q_rows(), arch.width),
            ("k", w.k, arch.kv_rows(), arch.width),
            ("v", w.v, arch.kv_rows(), arch.width),
            ("o", w.o, arch.width, arch.q_rows()),
            ("gate", w.gate, arch.ffn, arch.width),
            ("up", w.up, arch.ffn, arch.width),
            ("down", w.down, arch.width, arch.ffn),
        ]);
        let bias = |bias, rows| if arch.qkv_bias { rows } else { u32::from(bias) };
        vectors.extend([
            ("attention gain", Some(w.attn_gain), arch.width),
            ("ffn gain", Some(w.ffn_gain), arch.width),
            ("q bias", w.q_bias, bias(w.q_bias.is_some(), arch.q_rows())),
            ("k bias", w.k_bias, bias(w.k_bias.is_some(), arch.kv_rows())),
            ("v bias", w.v_bias, bias(w.v_bias.is_some(), arch.kv_rows())),
        ]);
    }
    for (name, w, rows, cols) in matrices {
        let len = crate::canon::Tensor::padded_len(rows as usize, cols as usize);
        if (w.rows, w.cols, w.panels.len()) != (rows as usize, cols as usize, len) {
            return Err(EngineError::invalid(
                name,
                format!("{} x {}", w.rows, w.cols),
                format!("{rows} x {cols}, in whole panels"),
            ));
        }
    }
    for (name, v, len) in vectors {
        let found = v.map_or(0, <[_]>::len);
        if found != len as usize {
            return Err(EngineError::invalid(name, format!("of {found} elements"), format!("of {len}")));
        }
    }
    if weights.layers.len() != arch.layers as usize {
        return Err(EngineError::invalid("layers", weights.layers.len(), arch.layers));
    }
    Ok(())
}
