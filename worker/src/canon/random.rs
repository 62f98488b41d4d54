//! Decoders and encoders with random weights, for tests and benches: the arithmetic costs the same whatever the weights say.

use half::f16;

use super::encoder::{Affine, EncoderLayer, LayerNorm};
use super::packed::{put_group, Group, Packing, GROUP};
use super::tensor::put_row;
use super::{
    Architecture, Decoder, Encoder, EncoderArchitecture, EncoderWeights, LayerWeights, Tensor, Weights,
};

/// A decoder whose weights are drawn from a seed, of a size that keeps activations near one.
pub struct RandomDecoder {
    arch: Architecture,
    embedding: Matrix,
    head: Option<Matrix>,
    final_gain: Vec<f16>,
    layers: Vec<Layer>,
}

struct Matrix {
    rows: usize,
    cols: usize,
    packing: Option<Packing>,
    panels: Vec<f16>,
}

struct Layer {
    attn_gain: Vec<f16>,
    qkv: [Matrix; 3],
    bias: Option<[Vec<f16>; 3]>,
    norms: Option<[Vec<f16>; 2]>,
    o: Matrix,
    ffn_gain: Vec<f16>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// SplitMix64.
struct Draw(u64);

impl Draw {
    /// Uniform in [-1, 1).
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn vector(&mut self, len: usize, middle: f32, spread: f32) -> Vec<f16> {
        (0..len).map(|_| f16::from_f32(middle + spread * self.unit())).collect()
    }

    fn matrix(&mut self, rows: u32, cols: u32) -> Matrix {
        let (rows, cols) = (rows as usize, cols as usize);
        let mut panels = vec![f16::ZERO; Tensor::padded_len(rows, cols)];
        for row in 0..rows {
            put_row(&mut panels, cols, row, &self.vector(cols, 0.0, 1.7 / (cols as f32).sqrt()));
        }
        Matrix { rows, cols, packing: None, panels }
    }
}

impl RandomDecoder {
    pub fn new(arch: Architecture, seed: u64) -> Self {
        let mut draw = Draw(seed);
        let (width, q, kv) = (arch.width, arch.q_rows(), arch.kv_rows());
        let layers = (0..arch.layers)
            .map(|_| Layer {
                attn_gain: draw.vector(width as usize, 1.0, 0.3),
                qkv: [q, kv, kv].map(|rows| draw.matrix(rows, width)),
                bias: arch.qkv_bias.then(|| [q, kv, kv].map(|rows| draw.vector(rows as usize, 0.0, 0.5))),
                norms: arch.qk_norm.then(|| [(); 2].map(|()| draw.vector(arch.head_dim as usize, 1.0, 0.3))),
                o: draw.matrix(width, q),
                ffn_gain: draw.vector(width as usize, 1.0, 0.3),
                gate: draw.matrix(arch.ffn, width),
                up: draw.matrix(arch.ffn, width),
                down: draw.matrix(width, arch.ffn),
            })
            .collect();
        let embedding = draw.matrix(arch.vocab, width);
        let head = (!arch.tied).then(|| draw.matrix(arch.vocab, width));
        let final_gain = draw.vector(width as usize, 1.0, 0.3);
        Self { arch, embedding, head, final_gain, layers }
    }

    /// The same decoder with its matrices quantised and kept so, where the format can hold them.
    pub fn packed(mut self, packing: Packing) -> Self {
        self.embedding.pack(packing);
        self.head.iter_mut().for_each(|head| head.pack(packing));
        for layer in &mut self.layers {
            let Layer { qkv: [q, k, v], o, gate, up, down, .. } = layer;
            [q, k, v, o, gate, up, down].into_iter().for_each(|matrix| matrix.pack(packing));
        }
        self
    }

    /// Multiplies row `row` of one layer's value projection by `factor`, so that a test can make a store overflow.
    pub fn scale_value_row(&mut self, layer: usize, row: usize, factor: f32) {
        let v = &mut self.layers[layer].qkv[2];
        let mut values = vec![f16::ZERO; v.cols];
        v.tensor().row(row, &mut values);
        values.iter_mut().for_each(|x| *x = f16::from_f32((x.to_f32() * factor).clamp(-65_504.0, 65_504.0)));
        put_row(&mut v.panels, v.cols, row, &values);
    }
}

impl Matrix {
    fn pack(&mut self, packing: Packing) {
        let Some(len) = packing.padded_len(self.rows, self.cols) else { return };
        let mut packed = vec![f16::ZERO; len];
        let mut row = vec![f16::ZERO; self.cols];
        for r in 0..self.rows {
            self.tensor().row(r, &mut row);
            for (group, values) in row.chunks(GROUP).enumerate() {
                let extreme = |f: fn(f32, f32) -> f32| values.iter().map(|x| x.to_f32()).fold(0.0, f);
                let (low, high) = (extreme(f32::min), extreme(f32::max));
                let (d, m, least, most) = match packing {
                    Packing::Q4_0 => (high.max(-low) / 7.5, 0.0, -8.0, 7.0),
                    Packing::Q4_1 => ((high - low) / 15.0, low, 0.0, 15.0),
                    Packing::Q8_0 => (high.max(-low) / 127.0, 0.0, -127.0, 127.0),
                };
                let (d, m) = (f16::from_f32(d), f16::from_f32(m));
                let code =
                    |x: &f16| ((x.to_f32() - m.to_f32()) / d.to_f32()).round().clamp(least, most) as i8;
                let q: [i8; GROUP] = std::array::from_fn(|i| code(&values[i]));
                // Exact in f64, and so rounded once.
                let value = |q: &i8| f16::from_f32((d.to_f64() * f64::from(*q) + m.to_f64() + 0.0) as f32);
                let values: Vec<f16> = q.iter().map(value).collect();
                let bytes = bytemuck::cast_slice_mut(&mut packed);
                assert!(put_group(packing, bytes, self.cols, r, group, &Group { d, m, q }, &values));
            }
        }
        (self.packing, self.panels) = (Some(packing), packed);
    }

    fn tensor(&self) -> Tensor<'_> {
        Tensor { rows: self.rows, cols: self.cols, packing: self.packing, panels: &self.panels }
    }
}

impl Decoder for RandomDecoder {
    fn arch(&self) -> &Architecture {
        &self.arch
    }

    fn weights(&self) -> Weights<'_> {
        let embedding = self.embedding.tensor();
        let layers = self.layers.iter().map(|l| {
            let [q, k, v] = l.qkv.each_ref().map(Matrix::tensor);
            let bias = |i: usize| l.bias.as_ref().map(|bias| &bias[i][..]);
            LayerWeights {
                attn_gain: &l.attn_gain,
                q,
                k,
                v,
                q_bias: bias(0),
                k_bias: bias(1),
                v_bias: bias(2),
                q_norm: l.norms.as_ref().map(|norms| &norms[0][..]),
                k_norm: l.norms.as_ref().map(|norms| &norms[1][..]),
                o: l.o.tensor(),
                ffn_gain: &l.ffn_gain,
                gate: l.gate.tensor(),
                up: l.up.tensor(),
                down: l.down.tensor(),
            }
        });
        Weights {
            embedding,
            head: self.head.as_ref().map_or(embedding, Matrix::tensor),
            final_gain: &self.final_gain,
            layers: layers.collect(),
        }
    }
}

/// An encoder whose weights are drawn from a seed.
pub struct RandomEncoder {
    arch: EncoderArchitecture,
    embedding: Matrix,
    positions: Matrix,
    types: Matrix,
    norm: [Vec<f16>; 2],
    layers: Vec<RandomLayer>,
}

/// Matrices with their biases: q, k, v, o, up, down; and the two norms.
struct RandomLayer {
    affine: [(Matrix, Vec<f16>); 6],
    norms: [[Vec<f16>; 2]; 2],
}

impl RandomEncoder {
    pub fn new(arch: EncoderArchitecture, seed: u64) -> Self {
        let mut draw = Draw(seed);
        let (width, ffn) = (arch.width, arch.ffn);
        let norm =
            |draw: &mut Draw| [draw.vector(width as usize, 1.0, 0.3), draw.vector(width as usize, 0.0, 0.3)];
        let layers = (0..arch.layers)
            .map(|_| RandomLayer {
                affine: [
                    (width, width),
                    (width, width),
                    (width, width),
                    (width, width),
                    (ffn, width),
                    (width, ffn),
                ]
                .map(|(rows, cols)| (draw.matrix(rows, cols), draw.vector(rows as usize, 0.0, 0.5))),
                norms: [(); 2].map(|()| norm(&mut draw)),
            })
            .collect();
        let [embedding, positions, types] =
            [arch.vocab, arch.context, arch.types].map(|rows| draw.matrix(rows, width));
        let norm = norm(&mut draw);
        Self { arch, embedding, positions, types, norm, layers }
    }

    /// Multiplies row `row` of the first layer's value projection by `factor`, so that a test can make a store overflow.
    pub fn scale_value_row(&mut self, row: usize, factor: f32) {
        let v = &mut self.layers[0].affine[2].0;
        let mut values = vec![f16::ZERO; v.cols];
        v.tensor().row(row, &mut values);
        values.iter_mut().for_each(|x| *x = f16::from_f32((x.to_f32() * factor).clamp(-65_504.0, 65_504.0)));
        put_row(&mut v.panels, v.cols, row, &values);
    }
}

impl Encoder for RandomEncoder {
    fn arch(&self) -> &EncoderArchitecture {
        &self.arch
    }

    fn weights(&self) -> EncoderWeights<'_> {
        fn norm([gain, bias]: &[Vec<f16>; 2]) -> LayerNorm<'_> {
            LayerNorm { gain, bias }
        }
        let layers = self.layers.iter().map(|l| {
            let [q, k, v, o, up, down] =
                l.affine.each_ref().map(|(matrix, bias)| Affine { weight: matrix.tensor(), bias });
            let [attn_norm, ffn_norm] = l.norms.each_ref().map(norm);
            EncoderLayer { q, k, v, o, attn_norm, up, down, ffn_norm }
        });
        EncoderWeights {
            embedding: self.embedding.tensor(),
            positions: self.positions.tensor(),
            types: self.types.tensor(),
            norm: norm(&self.norm),
            layers: layers.collect(),
        }
    }
}
