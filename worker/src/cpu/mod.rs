//! The fast path on a CPU, bit for bit equal to the reference: vector lanes are output rows, decoding threads own rows,
//! prefilling threads own tokens, and no sum is ever split or reordered.

mod cache;
mod decode;
mod encoder;
mod isa;
mod kernels;
mod pace;
mod packed;
mod pool;
mod prefill;
mod resident;
mod simd;

use std::sync::Arc;

use half::f16;
use parking_lot::Mutex;

use crate::canon::rope::RopeTable;
use crate::canon::tensor::PANEL;
use crate::canon::{
    Architecture, Decoder, Device, DeviceError, Forward, LayerWeights, Point, Run, SamplingParams, Tap,
    Tensor, Weights, PAGE,
};
use cache::KvCache;
use decode::Shared;
pub use encoder::CpuEncoder;
pub use isa::Isa;
use kernels::{Kernels, Scratch, Tile};
use pace::Pace;
pub use pool::assert_float_mode;
use pool::{Pool, Worker};
pub use resident::{free_memory, Resident};

/// Most positions that one step computes together; more than this are done in several.
const CHUNK: usize = 512;

/// Up to so many positions threads own rows of the weights, and with more of them tokens. Each weight is then read
/// from memory once, by one thread, where it would be read by each of them; but threads meet more often.
const FEW: usize = 40;

/// The CPU implementation over the decoder `M`.
pub struct Cpu<M> {
    model: Arc<M>,
    rope: RopeTable,
    gains: Gains,
    kernels: &'static Kernels,
    cache: KvCache,
    /// One computation at a time uses the threads; callers take turns.
    state: Mutex<State>,
}

/// Threads and what they work in.
struct State {
    pool: Pool,
    lanes: Vec<Lane>,
    shared: Shared,
    pace: Pace,
    /// What tokens are chosen from.
    logits: Vec<f32>,
}

/// Gains and biases widened to f32 and padded to whole panels.
struct Gains {
    layers: Vec<LayerGains>,
    last: Vec<f32>,
}

struct LayerGains {
    attn: Vec<f32>,
    ffn: Vec<f32>,
    /// Biases of q, k and v in the places of [`Shape::qkv`]; empty where the model has none.
    bias: Vec<f32>,
    /// Gains of the norms over heads of q and of k; empty where the model has none.
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
}

/// Lengths of activation rows, padded to whole panels.
#[derive(Clone, Copy)]
struct Shape {
    width: usize,
    /// Elements of a row without padding.
    true_width: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    /// Where k and v begin after q, and the whole length.
    k: usize,
    v: usize,
    qkv: usize,
    /// Heads side by side.
    attn: usize,
    eps: f32,
    /// Positions that a query sees, all where the model has no window.
    window: usize,
}

/// A position that is computed.
#[derive(Clone, Copy)]
struct Row {
    token: u32,
    position: usize,
    /// Which run it is of.
    run: usize,
    /// Which row of the step.
    index: usize,
}

/// What one thread works in.
#[derive(Default)]
struct Lane {
    tiles: Vec<Tile>,
    /// Rows that are this thread's; when threads own rows of weights, all of them.
    rows: Vec<Row>,
    /// For each of them, whether what this thread stored was finite.
    finite: Vec<bool>,
    h: Vec<f32>,
    x: Vec<f32>,
    packed: Vec<f32>,
    qkv: Vec<f32>,
    attn: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    y: Vec<f32>,
    /// What is wanted of the tensors, one after the other.
    tap: Vec<f32>,
    x_final: Vec<f16>,
    heads: HeadScratch,
}

/// What one thread works in for one head.
#[derive(Default)]
struct HeadScratch {
    attend: Scratch,
    cos: Vec<f32>,
    sin: Vec<f32>,
    key: Vec<f16>,
    value: Vec<f16>,
    /// Queries and key of a key head.
    own: Vec<f32>,
}

impl HeadScratch {
    /// Spreads a position's row of the rotary table into cos and sin.
    fn turn_to(&mut self, table: &[[f32; 2]]) {
        self.cos.clear();
        self.sin.clear();
        self.cos.extend(table.iter().map(|p| p[0]));
        self.sin.extend(table.iter().map(|p| p[1]));
    }
}

fn padded(n: usize) -> usize {
    n.next_multiple_of(PANEL)
}

fn widened(halves: &[f16]) -> Vec<f32> {
    let mut out: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
    out.resize(padded(halves.len()), 0.0);
    out
}

impl Shape {
    fn new(arch: &Architecture) -> Self {
        let (q, kv) = (padded(arch.q_rows() as usize), padded(arch.kv_rows() as usize));
        Self {
            width: padded(arch.width as usize),
            true_width: arch.width as usize,
            ffn: padded(arch.ffn as usize),
            heads: arch.heads as usize,
            kv_heads: arch.kv_heads as usize,
            dim: arch.head_dim as usize,
            k: q,
            v: q + kv,
            qkv: q + 2 * kv,
            attn: q,
            eps: arch.eps,
            window: arch.window.map_or(usize::MAX, |window| window as usize),
        }
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

impl LayerGains {
    fn new(layer: &LayerWeights<'_>) -> Self {
        let exact = |gain: Option<&[f16]>| gain.unwrap_or_default().iter().map(|x| x.to_f32()).collect();
        let biases = [layer.q_bias, layer.k_bias, layer.v_bias];
        Self {
            attn: widened(layer.attn_gain),
            ffn: widened(layer.ffn_gain),
            bias: biases.into_iter().flatten().flat_map(widened).collect(),
            q_norm: exact(layer.q_norm),
            k_norm: exact(layer.k_norm),
        }
    }
}

impl<M: Decoder> Cpu<M> {
    /// An engine of `threads` threads with `pages` pages of keys and values, which take memory when they are written;
    /// panics where the processor lacks `isa`.
    pub fn new(model: Arc<M>, isa: Isa, threads: usize, pages: usize) -> std::io::Result<Self> {
        let arch = model.arch();
        let weights = model.weights();
        let gains = Gains {
            layers: weights.layers.iter().map(LayerGains::new).collect(),
            last: widened(weights.final_gain),
        };
        let rope = RopeTable::of(arch);
        let cache = KvCache::new(arch, pages)?;
        let pool = Pool::new(threads)?;
        let lanes = (0..pool.threads()).map(|_| Lane::default()).collect();
        let pace = Pace::new(pool.threads());
        let (shared, logits) = (Shared::default(), Vec::new());
        let state = Mutex::new(State { pool, lanes, shared, pace, logits });
        Ok(Self { model, rope, gains, kernels: isa.kernels(), cache, state })
    }

    /// Decodes with all threads even where fewer are faster at the moment.
    pub fn with_all_threads(mut self) -> Self {
        let state = self.state.get_mut();
        state.pace = Pace::pinned(state.pool.threads());
        self
    }
}

/// Bytes that a page of keys and values takes.
pub fn page_bytes(arch: &Architecture) -> usize {
    KvCache::page_bytes(arch)
}

impl<M: Decoder> Cpu<M> {
    /// Logits of each row of `x_final`.
    fn head(&self, state: &mut State, x_final: &[f16], logits: &mut [f32]) {
        let head = self.model.weights().head;
        let rows = x_final.len() / head.cols;
        assert!(x_final.len() == rows * head.cols && logits.len() == rows * head.rows);
        let State { pool, lanes, pace, .. } = state;
        let x: Vec<f32> = x_final.iter().map(|x| x.to_f32()).collect();
        match rows {
            1 => decode::logits(self.kernels, pool, &mut lanes[..pace.threads()], &head, &x, logits),
            2..=FEW => decode::logits(self.kernels, pool, lanes, &head, &x, logits),
            _ => prefill::logits(self.kernels, pool, lanes, &head, &x, logits),
        }
    }
}

impl<M: Decoder> Device for Cpu<M> {
    fn arch(&self) -> &Architecture {
        self.model.arch()
    }

    fn pages(&self) -> usize {
        self.cache.pages()
    }

    fn forward(&self, runs: &[Run<'_>], mut tap: Option<&mut Tap<'_>>) -> Result<Forward, DeviceError> {
        for run in runs {
            let end = run.first + run.tokens.len();
            assert!(end <= run.pages.len() * PAGE, "{end} positions on {} pages", run.pages.len());
        }
        let rows = runs.iter().enumerate().flat_map(|(run, of)| {
            of.tokens.iter().zip(of.first..).map(move |(token, position)| (*token, position, run))
        });
        let rows: Vec<Row> = rows
            .enumerate()
            .map(|(index, (token, position, run))| Row { token, position, run, index })
            .collect();
        let weights = self.model.weights();
        let pass = Pass {
            kernels: self.kernels,
            shape: Shape::new(self.model.arch()),
            weights: &weights,
            gains: &self.gains,
            rope: &self.rope,
            cache: &self.cache,
            runs,
            wants: tap.as_ref().map(|tap| tap.wants),
        };
        let mut state = self.state.lock();
        let State { pool, lanes, shared, pace, .. } = &mut *state;
        let width = pass.shape.true_width;
        let mut result =
            Forward { x_final: vec![f16::ZERO; rows.len() * width], finite: vec![true; rows.len()] };
        // A chunk ends before the next begins: keys and values of all positions before a row are there.
        let mut tapped = Vec::new();
        for chunk in rows.chunks(CHUNK) {
            // What is wanted within a layer is at hand where threads own tokens.
            let few = chunk.len() <= FEW && !pass.wants_more_than_residual();
            let lanes = match chunk.len() {
                1 if few => pace.time(|n| pass.decode(pool, &mut lanes[..n], shared, chunk)),
                _ if few => pass.decode(pool, lanes, shared, chunk),
                _ => pass.prefill(pool, lanes, chunk),
            };
            for lane in lanes.iter() {
                for (row, finite) in lane.rows.iter().zip(&lane.finite) {
                    result.finite[row.index] &= finite;
                }
                for (row, x) in lane.rows.iter().zip(lane.x_final.chunks_exact(width)) {
                    result.x_final[row.index * width..][..width].copy_from_slice(x);
                }
            }
            pass.collect(lanes, rows.len(), &mut tapped);
        }
        if let Some(tap) = &mut tap {
            for (layer, point, values) in tapped {
                (tap.sink)(layer, point, &values);
            }
        }
        Ok(result)
    }

    fn logits(&self, x_final: &[f16], logits: &mut [f32]) -> Result<(), DeviceError> {
        self.head(&mut self.state.lock(), x_final, logits);
        Ok(())
    }

    fn sample(&self, x_final: &[f16], choices: &[(SamplingParams, u32)]) -> Result<Vec<u32>, DeviceError> {
        let (width, vocab) = (self.model.arch().width as usize, self.model.arch().vocab as usize);
        let mut state = self.state.lock();
        let mut logits = std::mem::take(&mut state.logits);
        let mut tokens = vec![0; choices.len()];
        let rows = x_final.chunks(FEW * width).zip(choices.chunks(FEW)).zip(tokens.chunks_mut(FEW));
        for ((x_final, choices), tokens) in rows {
            logits.resize(choices.len() * vocab, 0.0);
            self.head(&mut state, x_final, &mut logits);
            let threads = state.pool.threads().min(choices.len());
            let share = choices.len().div_ceil(threads);
            let mut parts: Vec<_> = tokens
                .chunks_mut(share)
                .zip(choices.chunks(share))
                .zip(logits.chunks(share * vocab))
                .collect();
            state.pool.each(&mut parts, |_, ((tokens, choices), logits)| {
                for ((token, (params, step)), logits) in
                    tokens.iter_mut().zip(*choices).zip(logits.chunks(vocab))
                {
                    *token = params.sample(logits, *step);
                }
            });
        }
        state.logits = logits;
        Ok(tokens)
    }

    fn copy_page(&self, from: u32, to: u32) -> Result<(), DeviceError> {
        let _state = self.state.lock();
        // SAFETY: whoever computes holds the lock.
        unsafe { self.cache.copy(from, to) };
        Ok(())
    }
}

/// Everything that a forward pass reads.
struct Pass<'a> {
    kernels: &'static Kernels,
    shape: Shape,
    weights: &'a Weights<'a>,
    gains: &'a Gains,
    rope: &'a RopeTable,
    cache: &'a KvCache,
    runs: &'a [Run<'a>],
    /// Which tensors are wanted.
    wants: Option<&'a (dyn Fn(u32, Point) -> bool + Sync)>,
}

/// A tensor that was wanted: `[rows][elements]`.
type Tapped = (u32, Point, Vec<f32>);

impl Pass<'_> {
    fn wants(&self, layer: usize, point: Point) -> bool {
        self.wants.is_some_and(|wants| wants(layer as u32, point))
    }

    fn wanted(&self) -> impl Iterator<Item = (usize, Point)> + '_ {
        let layers = if self.wants.is_some() { self.weights.layers.len() } else { 0 };
        let all = (0..layers).flat_map(|layer| Point::ALL.map(|point| (layer, point)));
        all.filter(|(layer, point)| self.wants(*layer, *point))
    }

    fn wants_more_than_residual(&self) -> bool {
        self.wanted().any(|(_, point)| point != Point::Residual)
    }

    /// Puts what the lanes' taps hold into its place among `rows` rows.
    fn collect(&self, lanes: &[Lane], rows: usize, tapped: &mut Vec<Tapped>) {
        let mut starts = vec![0; lanes.len()];
        for (i, (layer, point)) in self.wanted().enumerate() {
            let len = self.len_of(point);
            if tapped.len() == i {
                tapped.push((layer as u32, point, vec![0.0; rows * len]));
            }
            for (lane, start) in lanes.iter().zip(&mut starts) {
                let end = lane.tap.len().min(*start + lane.rows.len() * len);
                for (row, values) in lane.rows.iter().zip(lane.tap[*start..end].chunks_exact(len)) {
                    tapped[i].2[row.index * len..][..len].copy_from_slice(values);
                }
                *start = end;
            }
        }
    }

    /// Elements of a row of a tensor.
    fn len_of(&self, point: Point) -> usize {
        let s = &self.shape;
        match point {
            Point::AttnNorm | Point::Middle | Point::FfnNorm | Point::Residual => s.true_width,
            Point::Query | Point::Attn => s.heads * s.dim,
            Point::Key | Point::Value => s.kv_heads * s.dim,
            Point::Act => self.weights.layers[0].down.cols,
        }
    }

    /// The token's embedding, padded with zeros.
    fn embed(&self, token: u32, h: &mut [f32]) {
        h.fill(0.0);
        for (d, h) in h[..self.shape.true_width].iter_mut().enumerate() {
            *h = self.weights.embedding.at(token as usize, d).to_f32();
        }
    }

    /// Norms (where `norm` has gains), turns and rounds one head of q or k.
    fn turn(&self, head: &mut [f32], norm: &[f32], cos: &[f32], sin: &[f32]) -> bool {
        if !norm.is_empty() {
            (self.kernels.head_norm)(head, norm, self.shape.eps);
        }
        (self.kernels.rope)(head, cos, sin)
    }

    /// Turns, rounds and stores the key and value of one head at one position; answers whether all were finite. Key
    /// and value are rows of raw sums; the key is left as it is stored.
    ///
    /// # Safety
    /// No other thread reads this head's page of this position, or writes this place of it, meanwhile.
    unsafe fn store_kv(
        &self,
        layer: usize,
        head: usize,
        row: &Row,
        key: &mut [f32],
        value: &[f32],
        scratch: &mut HeadScratch,
    ) -> bool {
        let norm = &self.gains.layers[layer].k_norm;
        let mut finite = self.turn(key, norm, &scratch.cos, &scratch.sin);
        scratch.key.resize(key.len(), f16::ZERO);
        (self.kernels.narrow)(key, &mut scratch.key);
        scratch.value.resize(value.len(), f16::ZERO);
        (self.kernels.narrow)(value, &mut scratch.value);
        for x in &mut scratch.value {
            if !x.is_finite() {
                *x = f16::ZERO;
                finite = false;
            }
        }
        let (page, slot) = (self.runs[row.run].pages[row.position / PAGE], row.position % PAGE);
        // SAFETY: the caller's contract.
        unsafe { self.cache.put(page, slot, layer, head, &scratch.key, &scratch.value) };
        finite
    }

    /// Adds the layer's biases, where it has any, to a row of q, k and v, or to the part of it that begins at `start`.
    fn add_bias(&self, layer: usize, start: usize, part: &mut [f32]) {
        let bias = &self.gains.layers[layer].bias;
        if !bias.is_empty() {
            part.iter_mut().zip(&bias[start..]).for_each(|(y, b)| *y += b);
        }
    }

    /// Attention over key head `head` of the queries of `rows`, consecutive ones of one run. Row i of `q` begins at
    /// `i * stride`, with query head `base`. Calls `out` with row, query head, result and whether that was finite.
    ///
    /// # Safety
    /// Nobody writes to the pages of the run, in this layer and head, meanwhile.
    #[allow(clippy::too_many_arguments)]
    unsafe fn attention(
        &self,
        layer: usize,
        head: usize,
        rows: &[Row],
        q: &[f32],
        base: usize,
        stride: usize,
        scratch: &mut Scratch,
        mut out: impl FnMut(usize, usize, &[f32], bool),
    ) {
        let (Some(first), Some(end)) = (rows.first(), rows.last()) else { return };
        let (group, dim) = (self.shape.group(), self.shape.dim);
        let pages = &self.runs[first.run].pages[..=end.position / PAGE];
        // SAFETY: the caller keeps writers away.
        let pages: Vec<&[f16]> =
            pages.iter().map(|page| unsafe { self.cache.part(*page, layer, head) }).collect();
        let query = |i: usize| (i / group, head * group + i % group);
        for start in (0..rows.len() * group).step_by(kernels::TILE) {
            let count = kernels::TILE.min(rows.len() * group - start);
            let mut queries: [&[f32]; kernels::TILE] = [&[]; kernels::TILE];
            let (mut first, mut last) = ([0; kernels::TILE], [0; kernels::TILE]);
            for i in 0..count {
                let (row, head) = query(start + i);
                queries[i] = &q[row * stride + (head - base) * dim..][..dim];
                last[i] = rows[row].position;
                first[i] = (last[i] + 1).saturating_sub(self.shape.window);
            }
            let job = kernels::Attend {
                queries: &queries[..count],
                first: &first[..count],
                last: &last[..count],
                pages: &pages,
                layout: self.cache.layout(),
                scale: crate::canon::ops::score_scale(dim as u32),
            };
            let bad = (self.kernels.attend)(&job, scratch);
            for i in 0..count {
                let (row, head) = query(start + i);
                out(row, head, &scratch.out[i * padded(dim)..][..dim], bad >> i & 1 == 0);
            }
        }
    }
}

fn panel_count(w: &Tensor<'_>) -> usize {
    w.rows.div_ceil(PANEL)
}
