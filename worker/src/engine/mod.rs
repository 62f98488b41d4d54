//! The engine's public face: generating and auditing on any implementation of canon/1.
//!
//! An [`Engine`] holds a model ready to compute, a [`Session`] the keys and values of one sequence. What
//! [`Session::generate`] yields and what [`Engine::audit`] recomputes is the same on every machine, bit for bit.

mod audit;
mod batch;
mod embed;
mod ending;
mod error;
mod output;
mod pages;
mod runner;
mod session;
mod trace;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

pub use audit::{Audit, Claim, Divergence, Question};
pub use batch::{Batch, Event, Job, Limits, Logprobs};
pub use embed::Embedder;
pub use ending::{Finish, Pieces, Stop};
pub use error::EngineError;
pub use pages::PageUse;
pub use runner::{Failure, Load, Runner, Ticket};
pub use session::{Generation, Request, Session};
pub use trace::{difference, Difference, Element, HexBytes, TensorClaim, TensorName, Trace};

use crate::canon::reference::Reference;
use crate::canon::{Architecture, Decoder, Device, DeviceError, SamplingParams, Tensor, PAGE};
use crate::cpu::{free_memory, page_bytes, Cpu, Isa, Resident};
use crate::cuda::{prove, Card, Cuda, Driver, Room};
use crate::model::manifest::check_architecture;
use pages::Pages;

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
    /// Positions whose keys and values fit into memory, over all sequences, rounded up to whole pages. Memory is taken
    /// when they are computed, and then kept. By default half of what is free, at most 32 contexts.
    pub positions: Option<usize>,
}

/// Contexts that keys and values have room for by default, where there is memory.
const CONTEXTS: usize = 32;

impl Default for Options {
    /// The best instruction set, every core, huge pages.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { isa: Isa::detect(), threads, huge_pages: true, positions: None }
    }
}

impl Options {
    /// Pages for a model of this architecture.
    fn pages(&self, arch: &Architecture) -> usize {
        let context = (arch.context as usize).div_ceil(PAGE);
        match self.positions {
            Some(positions) => positions.div_ceil(PAGE),
            None => {
                let half = free_memory().unwrap_or(0) / 2;
                let fit = usize::try_from(half).unwrap_or(usize::MAX) / page_bytes(arch);
                // One whole context is always tried.
                fit.min(CONTEXTS * context).max(context)
            }
        }
    }
}

/// A model ready to compute. Sessions of several threads may use it at once; they take turns.
pub struct Engine {
    device: Box<dyn Device>,
    on_card: bool,
    pages: Mutex<Pages>,
    /// Makes what goes on when the device fails.
    spare: Option<Box<Spare>>,
    /// What it made.
    instead: OnceLock<Option<Box<Engine>>>,
}

type Spare = dyn Fn() -> Result<Engine, EngineError> + Send + Sync;

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
        let Options { isa, threads, huge_pages, .. } = options;
        let pages = options.pages(model.arch());
        let device: Box<dyn Device> = match huge_pages.then(|| Resident::copy(&model, false)).flatten() {
            Some(resident) => Box::new(Cpu::new(Arc::new(resident), isa, threads, pages)?),
            None => Box::new(Cpu::new(model, isa, threads, pages)?),
        };
        Ok(Self::on(device))
    }

    /// An engine on a card, which must first prove that it computes what the reference does. Weights, and keys and values of
    /// so many `positions` or of as many as fit, are in the card's memory.
    pub fn cuda(model: &dyn Decoder, card: &Card, positions: Option<usize>) -> Result<Self, EngineError> {
        check(model)?;
        let open = || Driver::open(card, true).map_err(DeviceError::from);
        // First, so that the card's context, which takes long to make, is there until the end.
        let driver = open()?;
        prove(open, model.arch())?;
        let pages = positions.map(|positions| positions.div_ceil(PAGE));
        let device = Box::new(Cuda::new(driver, model, Room { pages, ..Room::default() })?);
        Ok(Self { on_card: true, ..Self::on(device) })
    }

    /// An engine that computes by the scalar reference: slow, for checking the others.
    pub fn reference<M: Decoder + 'static>(model: Arc<M>) -> Result<Self, EngineError> {
        check(&*model)?;
        Ok(Self::on(Box::new(Reference::new(model))))
    }

    /// An engine on any implementation of the arithmetic.
    pub fn on(device: Box<dyn Device>) -> Self {
        let pages = Mutex::new(Pages::new(device.pages()));
        Self { device, on_card: false, pages, spare: None, instead: OnceLock::new() }
    }

    /// What batches and audits go on with when this engine's device fails: as all devices compute the same, nobody
    /// notices but by the time it takes. Sessions end with the error.
    pub fn with_spare(self, spare: impl Fn() -> Result<Self, EngineError> + Send + Sync + 'static) -> Self {
        Self { spare: Some(Box::new(spare)), ..self }
    }

    /// The engine that computes now: this one, or since its device failed the spare one.
    fn current(&self) -> &Self {
        self.instead.get().and_then(Option::as_deref).unwrap_or(self)
    }

    /// Whether what computes now reads weights from this machine's own memory.
    pub fn on_processor(&self) -> bool {
        !self.current().on_card
    }

    /// Whether the device failed, and the spare one computes.
    pub fn fell_over(&self) -> bool {
        matches!(self.instead.get(), Some(Some(_)))
    }

    /// Does `work` with the engine that computes now, and once more with the spare one if the device fails in it.
    pub(crate) fn with_fall_over<T>(
        &self,
        work: impl Fn(&Self) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        match work(self.current()) {
            Err(EngineError::Device(failed)) => match self.fall_over(&failed) {
                Some(spare) => work(spare),
                None => Err(failed.into()),
            },
            other => other,
        }
    }

    /// The spare engine, in place of this one whose device failed.
    fn fall_over(&self, failed: &DeviceError) -> Option<&Self> {
        let spare = self.spare.as_ref()?;
        let instead = self.instead.get_or_init(|| match spare() {
            Ok(engine) => {
                tracing::warn!(error = %failed, "going on with the spare device, until a restart");
                Some(Box::new(engine))
            }
            Err(error) => {
                tracing::error!(%failed, %error, "the device failed, and there is no spare one");
                None
            }
        });
        instead.as_deref()
    }

    pub fn arch(&self) -> &Architecture {
        self.device.arch()
    }

    /// Positions that there is memory for, over all sequences.
    pub fn positions(&self) -> usize {
        self.current().pages.lock().total() * PAGE
    }

    /// How the pages of the device that computes now are used.
    pub fn page_use(&self) -> PageUse {
        self.current().pages.lock().page_use()
    }

    /// An empty session with room for `capacity` positions: of a generation, prompt and greatest output together.
    pub fn session(&self, capacity: usize) -> Result<Session<'_>, EngineError> {
        let context = self.arch().context;
        if capacity == 0 || capacity > context as usize {
            return Err(EngineError::invalid("capacity", capacity, format!("1 to the context of {context}")));
        }
        Session::new(self.current(), capacity)
    }

    /// Pages for so many positions.
    fn take_pages(&self, positions: usize) -> Result<Own<'_>, EngineError> {
        let wanted = positions.div_ceil(PAGE);
        let mut pages = self.pages.lock();
        let total = pages.total();
        let pages = pages.take_all(wanted).ok_or(EngineError::NoPages { wanted, total })?;
        Ok(Own { engine: self, pages })
    }

    /// Checks everything about a request but its stop strings.
    fn check_request(
        &self,
        prompt: &[u32],
        params: &SamplingParams,
        max_output: u32,
    ) -> Result<(), EngineError> {
        params.validate()?;
        if prompt.is_empty() {
            return Err(EngineError::invalid("prompt", "empty", "at least one token"));
        }
        self.check_tokens("prompt", prompt)?;
        let total = prompt.len() + max_output as usize;
        let context = self.arch().context;
        if total > context as usize {
            let bound = format!("at most the context of {context}");
            return Err(EngineError::invalid("prompt and max_output together", total, bound));
        }
        Ok(())
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

/// Pages that one sequence has for itself, as long as this lives.
struct Own<'e> {
    engine: &'e Engine,
    pages: Vec<u32>,
}

impl std::ops::Deref for Own<'_> {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.pages
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        self.engine.pages.lock().give(self.pages.drain(..));
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
            ("q norm", w.q_norm, if arch.qk_norm { arch.head_dim } else { u32::from(w.q_norm.is_some()) }),
            ("k norm", w.k_norm, if arch.qk_norm { arch.head_dim } else { u32::from(w.k_norm.is_some()) }),
        ]);
    }
    for (name, w, rows, cols) in matrices {
        let len = match w.packing {
            None => Some(Tensor::padded_len(rows as usize, cols as usize)),
            Some(packing) => packing.padded_len(rows as usize, cols as usize),
        };
        if (w.rows, w.cols, Some(w.panels.len())) != (rows as usize, cols as usize, len) {
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
