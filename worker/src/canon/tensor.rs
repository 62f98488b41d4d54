//! A weight matrix in memory: panels of 64 rows, k-major, so that a vector register holds rows and every
//! output keeps the order of its own sum. The last panel is padded with zero rows.

use half::f16;

/// Rows of a panel.
pub const PANEL: usize = 64;

/// A matrix of `rows` x `cols` halves in panels; element (r, k) is at `(r / 64 * cols + k) * 64 + r % 64`.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub rows: usize,
    pub cols: usize,
    pub panels: &'a [f16],
}

impl<'a> Tensor<'a> {
    /// Halves that `rows` x `cols` take up in panels.
    pub fn padded_len(rows: usize, cols: usize) -> usize {
        rows.div_ceil(PANEL) * PANEL * cols
    }

    /// Element (`row`, `k`).
    pub fn at(&self, row: usize, k: usize) -> f16 {
        self.panels[(row / PANEL * self.cols + k) * PANEL + row % PANEL]
    }

    /// Copies one row out of its panel; `out` has `cols` elements.
    pub fn row(&self, row: usize, out: &mut [f16]) {
        for (k, x) in out.iter_mut().enumerate() {
            *x = self.at(row, k);
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

impl Weights<'_> {
    /// The same shapes over other memory: `place` gives for each slice of halves, always in the same order, one of the
    /// same length. Where the head is the embedding, it is asked for once.
    pub fn over<'b>(&self, place: &mut dyn FnMut(&[f16]) -> &'b [f16]) -> Weights<'b> {
        let embedding = self.embedding.over(place);
        let tied = std::ptr::eq(self.head.panels, self.embedding.panels);
        let head = if tied { embedding } else { self.head.over(place) };
        let final_gain = place(self.final_gain);
        let layers = self.layers.iter().map(|l| LayerWeights {
            attn_gain: place(l.attn_gain),
            q: l.q.over(place),
            k: l.k.over(place),
            v: l.v.over(place),
            q_bias: l.q_bias.map(&mut *place),
            k_bias: l.k_bias.map(&mut *place),
            v_bias: l.v_bias.map(&mut *place),
            o: l.o.over(place),
            ffn_gain: place(l.ffn_gain),
            gate: l.gate.over(place),
            up: l.up.over(place),
            down: l.down.over(place),
        });
        Weights { embedding, head, final_gain, layers: layers.collect() }
    }
}

impl Tensor<'_> {
    fn over<'b>(&self, place: &mut dyn FnMut(&[f16]) -> &'b [f16]) -> Tensor<'b> {
        Tensor { rows: self.rows, cols: self.cols, panels: place(self.panels) }
    }
}
