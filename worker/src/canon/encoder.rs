//! Encoders of BERT's shape: a text's tokens to one vector. Every position sees every other.
//!
//! The types that all implementations share, and the scalar definition, which reads like docs/canonical-arithmetic.md.

use std::sync::Arc;

use half::f16;
use serde::{Deserialize, Serialize};

use super::commit::{trace_leaf, trace_root, Digest};
use super::device::DeviceError;
use super::{ops, Tensor};

/// Shape and constants of an encoder. Its canonical bytes are the manifest's first leaf.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderArchitecture {
    /// Transformer blocks.
    pub layers: u32,
    /// Elements of a position, and of the result.
    pub width: u32,
    /// Attention heads; divides `width`.
    pub heads: u32,
    /// Elements between up and down.
    pub ffn: u32,
    /// Tokens of the vocabulary.
    pub vocab: u32,
    /// Greatest number of positions.
    pub context: u32,
    /// Kinds of segment that there are embeddings of; a text is of the first.
    pub types: u32,
    /// Added to the variance in layernorm.
    pub eps: f32,
}

impl EncoderArchitecture {
    /// Elements of a head.
    pub fn head_dim(&self) -> u32 {
        self.width / self.heads
    }
}

/// A matrix, and what is added to its products.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    pub weight: Tensor<'a>,
    pub bias: &'a [f16],
}

/// Gain and bias of a layernorm.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    pub gain: &'a [f16],
    pub bias: &'a [f16],
}

/// The weights of one transformer block.
#[derive(Clone, Copy, Debug)]
pub struct EncoderLayer<'a> {
    pub q: Affine<'a>,
    pub k: Affine<'a>,
    pub v: Affine<'a>,
    pub o: Affine<'a>,
    pub attn_norm: LayerNorm<'a>,
    pub up: Affine<'a>,
    pub down: Affine<'a>,
    pub ffn_norm: LayerNorm<'a>,
}

/// All weights of an encoder.
#[derive(Clone, Debug)]
pub struct EncoderWeights<'a> {
    pub embedding: Tensor<'a>,
    pub positions: Tensor<'a>,
    pub types: Tensor<'a>,
    pub norm: LayerNorm<'a>,
    pub layers: Vec<EncoderLayer<'a>>,
}

/// An encoder in memory.
pub trait Encoder: Send + Sync {
    fn arch(&self) -> &EncoderArchitecture;
    fn weights(&self) -> EncoderWeights<'_>;
}

/// One implementation of canon/1 over one encoder. All yield the same bits, whichever texts are computed together.
pub trait EncoderDevice: Send + Sync {
    fn arch(&self) -> &EncoderArchitecture;

    /// The vectors of texts: of each at least one token and at most the context, all below the vocabulary.
    fn encode(&self, texts: &[&[u32]]) -> Result<Vec<Embedding>, DeviceError>;
}

/// The vector of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `width` elements, of length 1 up to rounding (all zero where the mean is).
    pub vector: Vec<f16>,
    /// Whether every f16 store was finite.
    pub finite: bool,
}

impl Embedding {
    /// What a receipt commits to: the root over one leaf, of step 0, token 0 and the vector.
    pub fn trace_root(&self) -> Digest {
        trace_root(&[trace_leaf(0, 0, &self.vector)])
    }
}

/// Scalar implementation over the encoder `M`.
pub struct ReferenceEncoder<M>(pub Arc<M>);

impl<M: Encoder> EncoderDevice for ReferenceEncoder<M> {
    fn arch(&self) -> &EncoderArchitecture {
        self.0.arch()
    }

    fn encode(&self, texts: &[&[u32]]) -> Result<Vec<Embedding>, DeviceError> {
        Ok(texts.iter().map(|tokens| encode(&*self.0, tokens)).collect())
    }
}

/// The vector of `tokens`.
fn encode(model: &impl Encoder, tokens: &[u32]) -> Embedding {
    let (arch, weights) = (model.arch(), model.weights());
    let mut finite = true;
    let segment = row(&weights.types, 0);
    let mut x: Vec<Vec<f16>> = Vec::new();
    for (position, token) in tokens.iter().enumerate() {
        let place = sum(row(&weights.positions, position), &segment);
        let h = sum(row(&weights.embedding, *token as usize), &place);
        x.push(ops::layernorm(&h, weights.norm.gain, weights.norm.bias, arch.eps, &mut finite));
    }
    for layer in &weights.layers {
        block(arch, layer, &mut x, &mut finite);
    }
    Embedding { vector: ops::unit(&ops::mean(&x), &mut finite), finite }
}

/// One transformer block at all positions.
fn block(arch: &EncoderArchitecture, w: &EncoderLayer<'_>, x: &mut [Vec<f16>], finite: &mut bool) {
    let dim = arch.head_dim() as usize;
    let mut stored = |w: &Affine<'_>, x: &[f16]| -> Vec<f16> {
        affine(w, x).iter().map(|y| ops::store(*y, finite)).collect()
    };
    let [q, k, v] = [&w.q, &w.k, &w.v].map(|w| x.iter().map(|x| stored(w, x)).collect::<Vec<_>>());
    let scale = ops::score_scale(arch.head_dim());
    for (x, q) in x.iter_mut().zip(&q) {
        let mut attn = Vec::with_capacity(q.len());
        for (head, q) in q.chunks(dim).enumerate() {
            let own = head * dim..(head + 1) * dim;
            let keys: Vec<&[f16]> = k.iter().map(|k| &k[own.clone()]).collect();
            let values: Vec<&[f16]> = v.iter().map(|v| &v[own.clone()]).collect();
            attn.extend(ops::attention(q, &keys, &values, 0..keys.len(), scale, finite));
        }
        *x = normed(x, &affine(&w.o, &attn), &w.attn_norm, arch.eps, finite);
        let a: Vec<f16> = affine(&w.up, x).iter().map(|u| ops::store(ops::gelu(*u), finite)).collect();
        *x = normed(x, &affine(&w.down, &a), &w.ffn_norm, arch.eps, finite);
    }
}

/// layernorm(x + y).
fn normed(x: &[f16], y: &[f32], norm: &LayerNorm<'_>, eps: f32, finite: &mut bool) -> Vec<f16> {
    let h = sum(x.iter().map(|x| x.to_f32()).collect(), y);
    ops::layernorm(&h, norm.gain, norm.bias, eps, finite)
}

/// The matrix times a vector, plus the bias.
fn affine(w: &Affine<'_>, x: &[f16]) -> Vec<f32> {
    let mut row = vec![f16::ZERO; w.weight.cols];
    let dot = |(i, bias): (usize, &f16)| {
        w.weight.row(i, &mut row);
        ops::dot(x, &row) + bias.to_f32()
    };
    w.bias.iter().enumerate().map(dot).collect()
}

/// A row of a matrix, widened.
fn row(matrix: &Tensor<'_>, row: usize) -> Vec<f32> {
    let mut out = vec![f16::ZERO; matrix.cols];
    matrix.row(row, &mut out);
    out.iter().map(|x| x.to_f32()).collect()
}

fn sum(mut h: Vec<f32>, y: &[f32]) -> Vec<f32> {
    h.iter_mut().zip(y).for_each(|(h, y)| *h += y);
    h
}
