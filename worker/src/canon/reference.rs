//! The reference: a forward pass in scalar code, one token at a time, the whole history in plain vectors.

use std::collections::BTreeMap;
use std::sync::Arc;

use half::f16;
use parking_lot::Mutex;

use super::device::{Decoder, Device, DeviceError, Forward, Point, Run, Tap, PAGE};
use super::ops;
use super::rope::RopeTable;
use super::{Architecture, LayerWeights, Tensor};

/// Scalar implementation over the decoder `M`.
pub struct Reference<M> {
    model: Arc<M>,
    rope: RopeTable,
    pages: Mutex<BTreeMap<u32, Page>>,
}

/// Keys and values of [`PAGE`] positions: of each layer and key head, of each position that was computed.
type Page = Vec<Vec<Head>>;

#[derive(Clone, Default)]
struct Head {
    keys: Vec<Vec<f16>>,
    values: Vec<Vec<f16>>,
}

impl<M: Decoder> Reference<M> {
    pub fn new(model: Arc<M>) -> Self {
        let rope = RopeTable::of(model.arch());
        Self { model, rope, pages: Mutex::default() }
    }
}

impl<M: Decoder> Device for Reference<M> {
    fn arch(&self) -> &Architecture {
        self.model.arch()
    }

    /// As many as can be told apart: memory is taken as pages are written.
    fn pages(&self) -> usize {
        u32::MAX as usize
    }

    fn forward(&self, runs: &[Run<'_>], mut tap: Option<&mut Tap<'_>>) -> Result<Forward, DeviceError> {
        let mut stored = self.pages.lock();
        let mut result = Forward::default();
        let mut seen = Seen { wants: tap.as_ref().map(|tap| tap.wants), rows: BTreeMap::new() };
        for run in runs {
            for (i, token) in run.tokens.iter().enumerate() {
                let (x, finite) = self.position(*token, run.first + i, run.pages, &mut stored, &mut seen);
                result.x_final.extend(x);
                result.finite.push(finite);
            }
        }
        let rows = seen.rows;
        if let Some(tap) = &mut tap {
            rows.iter().for_each(|((layer, point), rows)| (tap.sink)(*layer, *point, rows));
        }
        Ok(result)
    }

    fn logits(&self, x_final: &[f16], logits: &mut [f32]) -> Result<(), DeviceError> {
        let weights = self.model.weights();
        for (x, out) in x_final.chunks(weights.head.cols).zip(logits.chunks_mut(weights.head.rows)) {
            out.copy_from_slice(&product(&weights.head, x));
        }
        Ok(())
    }

    fn copy_page(&self, from: u32, to: u32) -> Result<(), DeviceError> {
        let mut pages = self.pages.lock();
        let page = pages.get(&from).cloned().unwrap_or_default();
        pages.insert(to, page);
        Ok(())
    }
}

/// What was wanted of the tensors that layers store.
struct Seen<'a> {
    wants: Option<&'a (dyn Fn(u32, Point) -> bool + Sync)>,
    rows: BTreeMap<(u32, Point), Vec<f32>>,
}

impl Seen<'_> {
    fn note(&mut self, layer: u32, point: Point, row: &[f32]) {
        if self.wants.is_some_and(|wants| wants(layer, point)) {
            self.rows.entry((layer, point)).or_default().extend(row);
        }
    }

    fn note_halves(&mut self, layer: u32, point: Point, row: &[f16]) {
        self.note(layer, point, &row.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
    }
}

impl<M: Decoder> Reference<M> {
    /// All layers at one position; its final activations, and whether every store was finite.
    fn position(
        &self,
        token: u32,
        position: usize,
        table: &[u32],
        stored: &mut BTreeMap<u32, Page>,
        seen: &mut Seen<'_>,
    ) -> (Vec<f16>, bool) {
        let (arch, weights) = (self.model.arch(), self.model.weights());
        let mut finite = true;
        let mut embedded = vec![f16::ZERO; arch.width as usize];
        weights.embedding.row(token as usize, &mut embedded);
        let mut h: Vec<f32> = embedded.iter().map(|x| x.to_f32()).collect();
        let rope = self.rope.at(position);
        for (layer, w) in (0..).zip(&weights.layers) {
            let mut cache = Cache { layer: layer as usize, position, table, stored };
            block(arch, w, rope, &mut cache, &mut h, &mut finite, seen);
        }
        (ops::rmsnorm(&h, weights.final_gain, arch.eps, &mut finite), finite)
    }
}

/// The keys and values of a sequence in one layer.
struct Cache<'a> {
    layer: usize,
    /// The position that is computed.
    position: usize,
    table: &'a [u32],
    stored: &'a mut BTreeMap<u32, Page>,
}

impl Cache<'_> {
    fn put(&mut self, arch: &Architecture, head: usize, key: Vec<f16>, value: Vec<f16>) {
        let (page, slot) = (self.table[self.position / PAGE], self.position % PAGE);
        let page = self.stored.entry(page).or_default();
        page.resize(arch.layers as usize, Vec::new());
        page[self.layer].resize(arch.kv_heads as usize, Head::default());
        let head = &mut page[self.layer][head];
        // What an earlier owner of the page left from here on is not this sequence's.
        head.keys.truncate(slot);
        head.values.truncate(slot);
        head.keys.push(key);
        head.values.push(value);
    }

    /// Keys and values of positions 0 to this one.
    fn history(&self, head: usize) -> (Vec<&[f16]>, Vec<&[f16]>) {
        let pages =
            self.table[..=self.position / PAGE].iter().map(|page| &self.stored[page][self.layer][head]);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in pages {
            keys.extend(head.keys.iter().map(Vec::as_slice));
            values.extend(head.values.iter().map(Vec::as_slice));
        }
        keys.truncate(self.position + 1);
        values.truncate(self.position + 1);
        (keys, values)
    }
}

/// One transformer block at one position.
fn block(
    arch: &Architecture,
    w: &LayerWeights<'_>,
    rope: &[[f32; 2]],
    cache: &mut Cache<'_>,
    h: &mut [f32],
    finite: &mut bool,
    seen: &mut Seen<'_>,
) {
    let layer = cache.layer as u32;
    let dim = arch.head_dim as usize;
    let group = (arch.heads / arch.kv_heads) as usize;
    let x = ops::rmsnorm(h, w.attn_gain, arch.eps, finite);
    seen.note_halves(layer, Point::AttnNorm, &x);
    let mut q = biased(product(&w.q, &x), w.q_bias);
    let mut k = biased(product(&w.k, &x), w.k_bias);
    let v = biased(product(&w.v, &x), w.v_bias);
    for (x, gain) in [(&mut q, w.q_norm), (&mut k, w.k_norm)] {
        for head in x.chunks_mut(dim) {
            if let Some(gain) = gain {
                ops::head_norm(head, gain, arch.eps);
            }
            ops::rope(head, rope);
        }
    }
    let mut stored = |x: &[f32]| -> Vec<f16> { x.iter().map(|x| ops::store(*x, finite)).collect() };
    let (q, k, v) = (stored(&q), stored(&k), stored(&v));
    seen.note_halves(layer, Point::Query, &q);
    seen.note_halves(layer, Point::Key, &k);
    seen.note_halves(layer, Point::Value, &v);
    for (head, (k, v)) in k.chunks(dim).zip(v.chunks(dim)).enumerate() {
        cache.put(arch, head, k.to_vec(), v.to_vec());
    }
    let scale = ops::score_scale(arch.head_dim);
    let mut o = Vec::with_capacity(q.len());
    for (i, q) in q.chunks(dim).enumerate() {
        let (keys, values) = cache.history(i / group);
        let seen = arch.first_seen(cache.position)..cache.position + 1;
        o.extend(ops::attention(q, &keys, &values, seen, scale, finite));
    }
    seen.note_halves(layer, Point::Attn, &o);
    add(h, &product(&w.o, &o));
    seen.note(layer, Point::Middle, h);

    let x = ops::rmsnorm(h, w.ffn_gain, arch.eps, finite);
    seen.note_halves(layer, Point::FfnNorm, &x);
    let (gate, up) = (product(&w.gate, &x), product(&w.up, &x));
    let a: Vec<f16> = gate.iter().zip(&up).map(|(g, u)| ops::store(ops::silu_gate(*g, *u), finite)).collect();
    seen.note_halves(layer, Point::Act, &a);
    add(h, &product(&w.down, &a));
    seen.note(layer, Point::Residual, h);
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
