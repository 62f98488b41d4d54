//! The fast path on a CPU, bit for bit equal to the reference: vector lanes are output rows, decoding threads own rows,
//! prefilling threads own tokens, and no sum is ever split or reordered.

mod cache;
mod decode;
mod isa;
mod kernels;
mod pace;
mod pool;
mod prefill;
mod resident;
mod simd;

use std::sync::Arc;

use half::f16;
use parking_lot::Mutex;

use crate::canon::rope::RopeTable;
use crate::canon::tensor::PANEL;
use crate::canon::{Architecture, Backend, Decoder, Forward, LayerWeights, Sequence, Tap, Tensor};
use cache::KvCache;
use decode::Shared;
pub use isa::Isa;
use kernels::{Kernels, Scratch, Tile};
use pace::Pace;
pub use pool::assert_float_mode;
use pool::{Pool, Worker};
pub use resident::Resident;

/// Most tokens that one prefill step computes together; more than this is done in several.
const CHUNK: usize = 512;

/// The CPU implementation over the decoder `M`.
pub struct Cpu<M> {
    model: Arc<M>,
    rope: RopeTable,
    gains: Gains,
    kernels: &'static Kernels,
    /// One computation at a time uses the threads; sessions take turns.
    state: Mutex<State>,
}

/// Threads and what they work in.
struct State {
    pool: Pool,
    lanes: Vec<Lane>,
    shared: Shared,
    pace: Pace,
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
}

/// What one thread works in.
#[derive(Default)]
struct Lane {
    /// Prefill: rows are this thread's tokens.
    tiles: Vec<Tile>,
    tokens: Vec<u32>,
    positions: Vec<usize>,
    h: Vec<f32>,
    x: Vec<f32>,
    packed: Vec<f32>,
    qkv: Vec<f32>,
    attn: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    y: Vec<f32>,
    tap: Vec<f32>,
    x_final: Vec<f16>,
    finite: Vec<bool>,
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
        }
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

impl LayerGains {
    fn new(layer: &LayerWeights<'_>) -> Self {
        let biases = [layer.q_bias, layer.k_bias, layer.v_bias];
        Self {
            attn: widened(layer.attn_gain),
            ffn: widened(layer.ffn_gain),
            bias: biases.into_iter().flatten().flat_map(widened).collect(),
        }
    }
}

impl<M: Decoder> Cpu<M> {
    /// An engine of `threads` threads; panics where the processor lacks `isa`.
    pub fn new(model: Arc<M>, isa: Isa, threads: usize) -> std::io::Result<Self> {
        let arch = model.arch();
        let weights = model.weights();
        let gains = Gains {
            layers: weights.layers.iter().map(LayerGains::new).collect(),
            last: widened(weights.final_gain),
        };
        let rope = RopeTable::new(arch.rope_base, arch.head_dim, arch.context);
        let pool = Pool::new(threads)?;
        let lanes = (0..pool.threads()).map(|_| Lane::default()).collect();
        let pace = Pace::new(pool.threads());
        let shared = Shared::new(&Shape::new(arch));
        let state = Mutex::new(State { pool, lanes, shared, pace });
        Ok(Self { model, rope, gains, kernels: isa.kernels(), state })
    }

    /// Decodes with all threads even where fewer are faster at the moment.
    pub fn with_all_threads(mut self) -> Self {
        let state = self.state.get_mut();
        state.pace = Pace::pinned(state.pool.threads());
        self
    }
}

impl<M: Decoder> Backend for Cpu<M> {
    fn arch(&self) -> &Architecture {
        self.model.arch()
    }

    fn open(&self, capacity: usize) -> std::io::Result<Box<dyn Sequence + '_>> {
        let cache = KvCache::new(self.model.arch(), capacity)?;
        Ok(Box::new(CpuSequence { cpu: self, cache, len: 0, capacity }))
    }

    fn logits(&self, x_final: &[f16], logits: &mut [f32]) {
        let head = self.model.weights().head;
        let rows = x_final.len() / head.cols;
        assert!(x_final.len() == rows * head.cols && logits.len() == rows * head.rows);
        let mut state = self.state.lock();
        let State { pool, lanes, pace, .. } = &mut *state;
        let x: Vec<f32> = x_final.iter().map(|x| x.to_f32()).collect();
        if rows == 1 {
            decode::logits(self.kernels, pool, pace.threads(), &head, &x, logits);
        } else {
            prefill::logits(self.kernels, pool, lanes, &head, &x, logits);
        }
    }
}

struct CpuSequence<'a, M> {
    cpu: &'a Cpu<M>,
    cache: KvCache,
    len: usize,
    capacity: usize,
}

impl<M: Decoder> Sequence for CpuSequence<'_, M> {
    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, len: usize) {
        // What lies beyond is finite and masked, or overwritten before it is seen.
        self.len = self.len.min(len);
    }

    fn forward(&mut self, tokens: &[u32], mut tap: Option<&mut Tap<'_>>) -> Forward {
        assert!(self.len + tokens.len() <= self.capacity, "{} more positions do not fit", tokens.len());
        let cpu = self.cpu;
        let weights = cpu.model.weights();
        let pass = Pass {
            kernels: cpu.kernels,
            shape: Shape::new(cpu.model.arch()),
            weights: &weights,
            gains: &cpu.gains,
            rope: &cpu.rope,
            cache: &self.cache,
            tap: tap.as_ref().map(|tap| tap.layer as usize),
        };
        let mut state = cpu.state.lock();
        let State { pool, lanes, shared, pace } = &mut *state;
        let mut result = Forward::default();
        for chunk in tokens.chunks(CHUNK) {
            let step = match chunk {
                [token] => pace.time(|n| pass.decode(pool, &mut lanes[..n], shared, *token, self.len)),
                _ => pass.prefill(pool, lanes, chunk, self.len),
            };
            if let Some(tap) = &mut tap {
                (tap.sink)(&step.residual);
            }
            result.x_final.extend(step.forward.x_final);
            result.finite.extend(step.forward.finite);
            self.len += chunk.len();
        }
        result
    }
}

/// Everything that a forward pass reads.
struct Pass<'a> {
    kernels: &'static Kernels,
    shape: Shape,
    weights: &'a crate::canon::Weights<'a>,
    gains: &'a Gains,
    rope: &'a RopeTable,
    cache: &'a KvCache,
    /// The layer after which the residual stream is wanted.
    tap: Option<usize>,
}

/// What a pass over some positions leaves.
struct Step {
    forward: Forward,
    /// `[positions][width]`, where wanted.
    residual: Vec<f32>,
}

impl Pass<'_> {
    /// The token's embedding, padded with zeros.
    fn embed(&self, token: u32, h: &mut [f32]) {
        h.fill(0.0);
        for (d, h) in h[..self.shape.true_width].iter_mut().enumerate() {
            *h = self.weights.embedding.at(token as usize, d).to_f32();
        }
    }

    /// Turns, rounds and stores the key and value of one head at one position; answers whether all were finite. Key
    /// and value are rows of raw sums.
    ///
    /// # Safety
    /// No other thread reads this layer of the cache or writes this position of this head meanwhile.
    unsafe fn store_kv(
        &self,
        layer: usize,
        head: usize,
        position: usize,
        key: &mut [f32],
        value: &[f32],
        scratch: &mut HeadScratch,
    ) -> bool {
        let mut finite = (self.kernels.rope)(key, &scratch.cos, &scratch.sin);
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
        // SAFETY: the caller's contract.
        unsafe { self.cache.put(layer, head, position, &scratch.key, &scratch.value) };
        finite
    }

    /// Adds the layer's biases, where it has any, to a row of q, k and v, or to the part of it that begins at `start`.
    fn add_bias(&self, layer: usize, start: usize, part: &mut [f32]) {
        let bias = &self.gains.layers[layer].bias;
        if !bias.is_empty() {
            part.iter_mut().zip(&bias[start..]).for_each(|(y, b)| *y += b);
        }
    }

    /// Attention over key head `head` of the queries in `rows` rows of `q`, row i at position `first + i`; a row begins
    /// with query head `base`. Calls `out` with row, query head, result and whether that was finite.
    ///
    /// # Safety
    /// Nobody writes this layer of the cache meanwhile.
    #[allow(clippy::too_many_arguments)]
    unsafe fn attention(
        &self,
        layer: usize,
        head: usize,
        q: &[f32],
        base: usize,
        stride: usize,
        first: usize,
        rows: usize,
        scratch: &mut Scratch,
        mut out: impl FnMut(usize, usize, &[f32], bool),
    ) {
        let (group, dim) = (self.shape.group(), self.shape.dim);
        // SAFETY: the caller keeps writers away.
        let (keys, values) = unsafe { (self.cache.keys(layer, head), self.cache.values(layer, head)) };
        let query = |i: usize| (i / group, head * group + i % group);
        for start in (0..rows * group).step_by(kernels::TILE) {
            let count = kernels::TILE.min(rows * group - start);
            let mut queries: [&[f32]; kernels::TILE] = [&[]; kernels::TILE];
            let mut last = [0; kernels::TILE];
            for i in 0..count {
                let (row, head) = query(start + i);
                queries[i] = &q[row * stride + (head - base) * dim..][..dim];
                last[i] = first + row;
            }
            let job = kernels::Attend {
                queries: &queries[..count],
                last: &last[..count],
                keys,
                values,
                dim,
                capacity: self.cache.capacity,
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

/// The panels of `w` with the given numbers.
fn panels<'a>(w: &Tensor<'a>, range: std::ops::Range<usize>) -> &'a [f16] {
    &w.panels[range.start * PANEL * w.cols..range.end * PANEL * w.cols]
}

fn panel_count(w: &Tensor<'_>) -> usize {
    w.rows.div_ceil(PANEL)
}
