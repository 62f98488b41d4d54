//! A weight matrix in memory: panels of 64 rows, k-major, so that a vector register holds rows and every
//! output keeps the order of its own sum. The last panel is padded with zero rows.

use half::f16;

use super::packed::{self, Packing};

/// Rows of a panel.
pub const PANEL: usize = 64;

/// A matrix of `rows` x `cols` halves in panels; element (r, k) is at `(r / 64 * cols + k) * 64 + r % 64`.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub rows: usize,
    pub cols: usize,
    /// Where the weights are quantised in memory: then `panels` is what [`packed`](super::packed) lays out, two bytes in
    /// each half.
    pub packing: Option<Packing>,
    pub panels: &'a [f16],
}

impl<'a> Tensor<'a> {
    /// Halves that `rows` x `cols` take up in panels.
    pub fn padded_len(rows: usize, cols: usize) -> usize {
        rows.div_ceil(PANEL) * PANEL * cols
    }

    /// Halves that one panel takes.
    pub fn panel_len(&self) -> usize {
        match self.packing {
            None => PANEL * self.cols,
            Some(packing) => 2 * (self.cols / packed::GROUP) * packing.block_len(),
        }
    }

    /// The panels with the given numbers, as a matrix of their rows, padding included.
    pub fn panels(&self, range: std::ops::Range<usize>) -> Tensor<'a> {
        let len = self.panel_len();
        Tensor {
            rows: range.len() * PANEL,
            panels: &self.panels[range.start * len..range.end * len],
            ..*self
        }
    }

    /// Element (`row`, `k`).
    pub fn at(&self, row: usize, k: usize) -> f16 {
        match self.packing {
            None => self.panels[(row / PANEL * self.cols + k) * PANEL + row % PANEL],
            Some(packing) => packed::element(packing, bytemuck::cast_slice(self.panels), self.cols, row, k),
        }
    }

    /// Copies one row out of its panel; `out` has `cols` elements.
    pub fn row(&self, row: usize, out: &mut [f16]) {
        match self.packing {
            None => {
                let column = self.panels[row / PANEL * self.cols * PANEL + row % PANEL..].iter();
                out.iter_mut().zip(column.step_by(PANEL)).for_each(|(to, x)| *to = *x);
            }
            Some(packing) => {
                let panels = bytemuck::cast_slice(self.panels);
                for (group, out) in out.chunks_mut(packed::GROUP).enumerate() {
                    packed::read_group(packing, panels, self.cols, row, group, out);
                }
            }
        }
    }
}

/// Writes row `row` of a matrix with `cols` columns into its panel.
pub fn put_row(panels: &mut [f16], cols: usize, row: usize, values: &[f16]) {
    let base = row / PANEL * cols * PANEL + row % PANEL;
    for (k, v) in values.iter().enumerate() {
        panels[base + k * PANEL] = *v;
    }
}

/// The weights of one transformer block.
#[derive(Clone, Copy, Debug)]
pub struct LayerWeights<'a> {
    pub attn_gain: &'a [f16],
    pub q: Tensor<'a>,
    pub k: Tensor<'a>,
    pub v: Tensor<'a>,
    pub q_bias: Option<&'a [f16]>,
    pub k_bias: Option<&'a [f16]>,
    pub v_bias: Option<&'a [f16]>,
    /// Gains of the norm over each head of q, and of k.
    pub q_norm: Option<&'a [f16]>,
    pub k_norm: Option<&'a [f16]>,
    pub o: Tensor<'a>,
    pub ffn_gain: &'a [f16],
    pub gate: Tensor<'a>,
    pub up: Tensor<'a>,
    pub down: Tensor<'a>,
}

/// All weights of a decoder. `head` is the embedding where the two are tied.
#[derive(Clone, Debug)]
pub struct Weights<'a> {
    pub embedding: Tensor<'a>,
    pub head: Tensor<'a>,
    pub final_gain: &'a [f16],
    pub layers: Vec<LayerWeights<'a>>,
}

impl<'a> Weights<'a> {
    /// The same shapes over other memory: `place` gives for each tensor, always in the same order, one of the same rows
    /// and columns. A vector comes as one row, unpadded. Where the head is the embedding, it is asked for once.
    pub fn over<'b>(&self, place: &mut dyn FnMut(Tensor<'a>) -> Tensor<'b>) -> Weights<'b> {
        let embedding = place(self.embedding);
        let tied = std::ptr::eq(self.head.panels, self.embedding.panels);
        let head = if tied { embedding } else { place(self.head) };
        let vector = |place: &mut dyn FnMut(Tensor<'a>) -> Tensor<'b>, panels: &'a [f16]| {
            place(Tensor { rows: 1, cols: panels.len(), packing: None, panels }).panels
        };
        let final_gain = vector(place, self.final_gain);
        let layers = self.layers.iter().map(|l| LayerWeights {
            attn_gain: vector(place, l.attn_gain),
            q: place(l.q),
            k: place(l.k),
            v: place(l.v),
            q_bias: l.q_bias.map(|v| vector(place, v)),
            k_bias: l.k_bias.map(|v| vector(place, v)),
            v_bias: l.v_bias.map(|v| vector(place, v)),
            q_norm: l.q_norm.map(|v| vector(place, v)),
            k_norm: l.k_norm.map(|v| vector(place, v)),
            o: place(l.o),
            ffn_gain: vector(place, l.ffn_gain),
            gate: place(l.gate),
            up: place(l.up),
            down: place(l.down),
        });
        Weights { embedding, head, final_gain, layers: layers.collect() }
    }
}
