//! What an implementation of the arithmetic offers, so that whoever generates or audits need not know which it is.

use half::f16;

use super::constants::BLOCK;
use super::{Architecture, SamplingParams, Weights};

/// Positions of a page of keys and values: one block of the attention rule, so that no block lies in two pages.
pub const PAGE: usize = BLOCK;

/// A decoder in memory.
pub trait Decoder: Send + Sync {
    fn arch(&self) -> &Architecture;
    fn weights(&self) -> Weights<'_>;

    /// These weights were read, and will not be soon: what mirrors a file may leave this process's memory. They stay
    /// readable.
    fn release(&self, _weights: &[f16]) {}
}

/// The next positions of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// At least one, all below the vocabulary.
    pub tokens: &'a [u32],
    /// The position of the first.
    pub first: usize,
    /// Page `pages[i]` holds positions `i * PAGE` on. What lies before `first` was computed, or copied; what the run
    /// writes is on no page of another run.
    pub pages: &'a [u32],
}

/// One implementation of canon/1 over one decoder, with its memory for keys and values in pages. It does not know
/// which sequence has which: whoever calls it keeps the tables. All implementations yield the same bits, whichever runs
/// are computed together.
pub trait Device: Send + Sync {
    fn arch(&self) -> &Architecture;

    /// Pages that there are: their numbers are below it.
    fn pages(&self) -> usize;

    /// Computes all positions of all runs.
    fn forward(&self, runs: &[Run<'_>], tap: Option<&mut Tap<'_>>) -> Result<Forward, DeviceError>;

    /// Logits of each row of `x_final` (`[rows][width]`) into `logits` (`[rows][vocab]`).
    fn logits(&self, x_final: &[f16], logits: &mut [f32]) -> Result<(), DeviceError>;

    /// The next token after each row of `x_final`, by its parameters, which are valid, and its output step: what
    /// [`SamplingParams::sample`] chooses from the row's logits.
    fn sample(&self, x_final: &[f16], choices: &[(SamplingParams, u32)]) -> Result<Vec<u32>, DeviceError> {
        let vocab = self.arch().vocab as usize;
        let mut logits = vec![0.0; choices.len() * vocab];
        self.logits(x_final, &mut logits)?;
        let rows = choices.iter().zip(logits.chunks_exact(vocab));
        Ok(rows.map(|((params, step), logits)| params.sample(logits, *step)).collect())
    }

    /// Copies the keys and values of a page to another one.
    fn copy_page(&self, from: u32, to: u32) -> Result<(), DeviceError>;
}

/// A device stopped working. What it was computing is not known; nothing of it may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed: {0}")]
pub struct DeviceError(pub String);

/// A tensor that a layer stores. In the order in which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// What q, k and v are products of; halves.
    AttnNorm,
    /// After rope; halves.
    Query,
    /// After rope; halves.
    Key,
    /// Halves.
    Value,
    /// The heads' outputs side by side; halves.
    Attn,
    /// The residual stream after attention.
    Middle,
    /// What gate and up are products of; halves.
    FfnNorm,
    /// silu(gate) * up; halves.
    Act,
    /// The residual stream after the layer.
    Residual,
}

impl Point {
    /// All, in order.
    pub const ALL: [Self; 9] = [
        Self::AttnNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Attn,
        Self::Middle,
        Self::FfnNorm,
        Self::Act,
        Self::Residual,
    ];

    /// Elements of a position.
    pub fn len(self, arch: &Architecture) -> usize {
        let len = match self {
            Self::AttnNorm | Self::Middle | Self::FfnNorm | Self::Residual => arch.width,
            Self::Query | Self::Attn => arch.q_rows(),
            Self::Key | Self::Value => arch.kv_rows(),
            Self::Act => arch.ffn,
        };
        len as usize
    }
}

/// Listens to what layers store.
pub struct Tap<'a> {
    /// Whether a tensor of a layer is wanted.
    pub wants: &'a (dyn Fn(u32, Point) -> bool + Sync),
    /// Gets what is wanted, layer by layer in the order of [`Point`]: `[rows][elements]`, rows as in [`Forward`].
    pub sink: &'a mut dyn FnMut(u32, Point, &[f32]),
}

/// What a call of [`Device::forward`] leaves for each position: rows in the order of the runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forward {
    /// `[rows][width]`.
    pub x_final: Vec<f16>,
    /// Whether every f16 store of the position was finite.
    pub finite: Vec<bool>,
}
