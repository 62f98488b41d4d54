//! What an implementation of the arithmetic offers, so that whoever generates or audits need not know which it is.

use half::f16;

use super::{Architecture, Weights};

/// A decoder in memory.
pub trait Decoder: Send + Sync {
    fn arch(&self) -> &Architecture;
    fn weights(&self) -> Weights<'_>;
}

/// One implementation of canon/1 over one decoder. All of them yield the same bits.
pub trait Backend: Send + Sync {
    fn arch(&self) -> &Architecture;

    /// An empty sequence with room for `capacity` positions, at most the architecture's context. Fails where there is
    /// no memory for them.
    fn open(&self, capacity: usize) -> std::io::Result<Box<dyn Sequence + '_>>;

    /// Logits of each row of `x_final` (`[rows][width]`) into `logits` (`[rows][vocab]`).
    fn logits(&self, x_final: &[f16], logits: &mut [f32]);
}

/// Keys and values of the positions so far.
pub trait Sequence: Send {
    /// Positions so far.
    fn len(&self) -> usize;

    /// Whether nothing has been computed yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions that fit.
    fn capacity(&self) -> usize;

    /// Forgets all positions from `len` on.
    fn truncate(&mut self, len: usize);

    /// Computes `tokens`, all below the vocabulary, at the next positions, which must fit.
    fn forward(&mut self, tokens: &[u32], tap: Option<&mut Tap<'_>>) -> Forward;
}

/// Listens to the residual stream after one layer.
pub struct Tap<'a> {
    pub layer: u32,
    /// Gets `[positions][width]`, the positions in order.
    pub sink: &'a mut dyn FnMut(&[f32]),
}

/// What a call of [`Sequence::forward`] leaves for each of its positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forward {
    /// `[positions][width]`.
    pub x_final: Vec<f16>,
    /// Whether every f16 store of the position was finite.
    pub finite: Vec<bool>,
}
