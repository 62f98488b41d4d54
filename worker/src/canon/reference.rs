//! The reference: a forward pass in scalar code, one token at a time, the whole history in plain vectors.

use std::sync::Arc;

use half::f16;

use super::backend::{Backend, Decoder, Forward, Sequence, Tap};
use super::ops;
use super::rope::RopeTable;
use super::{Architecture, LayerWeights, Tensor};

/// Scalar implementation over the decoder `M`.
pub struct Reference<M> {
    model: Arc<M>,
    rope: RopeTable,
}

impl<M: Decoder> Reference<M> {
    pub fn new(model: Arc<M>) -> Self {
        let arch = model.arch();
        let rope = RopeTable::new(arch.rope_base, arch.head_dim, arch.context);
        Self { model, rope }
    }
}

impl<M: Decoder> Backend for Reference<M> {
    fn arch(&self) -> &Architecture {
        self.model.arch()
    }

    fn open(&self, capacity: usize) -> std::io::Result<Box<dyn Sequence + '_>> {
        let arch = self.model.arch();
        let heads = vec![Head::default(); arch.kv_heads as usize];
        let layers = vec![heads; arch.layers as usize];
        Ok(Box::new(ReferenceSequence { backend: self, layers, len: 0, capacity }))
    }

    fn logits(&self, x_final: &[f16], logits: &mut [f32]) {
        let weights = self.model.weights();
        for (x, out) in x_final.chunks(weights.head.cols).zip(logits.chunks_mut(weights.head.rows)) {
            out.copy_from_slice(&product(&weights.head, x));
        }
    }
}

/// Keys and values of one head, by position.
#[derive(Clone, Default)]
struct Head {
    keys: Vec<Vec<f16>>,
    values: Vec<Vec<f16>>,
}

struct ReferenceSequence<'a, M> {
    backend: &'a Reference<M>,
    layers: Vec<Vec<Head>>,
    len: usize,
    capacity: usize,
}

impl<M: Decoder> Sequence for ReferenceSequence<'_, M> {
    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        for head in self.layers.iter_mut().flatten() {
            head.keys.truncate(len);
            head.values.truncate(len);
        }
    }

    fn forward(&mut self, tokens: &[u32], mut tap: Option<&mut Tap<'_>>) -> Forward {
        let model = &self.backend.model;
        let (arch, weights) = (model.arch(), model.weights());
        let mut result = Forward::default();
        for token in tokens {
            let mut finite = true;
            let mut embedded = vec![f16::ZERO; arch.width as usize];
            weights.embedding.row(*token as usize, &mut embedded);
            let mut h: Vec<f32> = embedded.iter().map(|x| x.to_f32()).collect();
            let rope = self.backend.rope.at(self.len);
            for (i, (layer, heads)) in weights.layers.iter().zip(&mut self.layers).enumerate() {
                block(arch, layer, rope, heads, &mut h, &mut finite);
                if let Some(tap) = tap.as_mut().filter(|tap| tap.layer as usize == i) {
                    (tap.sink)(&h);
                }
            }
            result.x_final.extend(ops::rmsnorm(&h, weights.final_gain, arch.eps, &mut finite));
            result.finite.push(finite);
            self.len += 1;
        }
        result
    }
}

/// One transformer block at one position.
fn block(
    arch: &Architecture,
    w: &LayerWeights<'_>,
    rope: &[[f32; 2]],
    heads: &mut [Head],
    h: &mut [f32],
    finite: &mut bool,
) {
    let dim = arch.head_dim as usize;
    let group = (arch.heads / arch.kv_heads) as usize;
    let x = ops::rmsnorm(h, w.attn_gain, arch.eps, finite);
    let mut q = biased(product(&w.q, &x), w.q_bias);
    let mut k = biased(product(&w.k, &x), w.k_bias);
    let v = biased(product(&w.v, &x), w.v_bias);
    for head in q.chunks_mut(dim).chain(k.chunks_mut(dim)) {
        ops::rope(head, rope);
    }
    let mut stored = |x: &[f32]| -> Vec<f16> { x.iter().map(|x| ops::store(*x, finite)).collect() };
    let q = stored(&q);
    for (head, (k, v)) in heads.iter_mut().zip(k.chunks(dim).zip(v.chunks(dim))) {
        head.keys.push(stored(k));
        head.values.push(stored(v));
    }
    let scale = ops::score_scale(arch.head_dim);
    let mut o = Vec::with_capacity(q.len());
    for (i, q) in q.chunks(dim).enumerate() {
        let head = &heads[i / group];
        o.extend(ops::attention(q, &head.keys, &head.values, scale, finite));
    }
    add(h, &product(&w.o, &o));

    let x = ops::rmsnorm(h, w.ffn_gain, arch.eps, finite);
    let (gate, up) = (product(&w.gate, &x), product(&w.up, &x));
    let a: Vec<f16> = gate.iter().zip(&up).map(|(g, u)| ops::store(ops::silu_gate(*g, *u), finite)).collect();
    add(h, &product(&w.down, &a));
}

/// The matrix times a vector.
fn product(w: &Tensor<'_>, x: &[f16]) -> Vec<f32> {
    let mut row = vec![f16::ZERO; w.cols];
    (0..w.rows)
        .map(|i| {
            w.row(i, &mut row);
            ops::dot(x, &row)
        })
        .collect()
}

fn biased(mut y: Vec<f32>, bias: Option<&[f16]>) -> Vec<f32> {
    for (y, b) in y.iter_mut().zip(bias.unwrap_or_default()) {
        *y += b.to_f32();
    }
    y
}

fn add(h: &mut [f32], y: &[f32]) {
    for (h, y) in h.iter_mut().zip(y) {
        *h += y;
    }
}
