//! Encoders on a CPU, bit for bit equal to the reference: threads own positions, over the kernels of decoders. All that
//! threads share is the keys and values of a layer: one barrier a layer, between writing them and the first look.

mod kernels;

use std::sync::Arc;

use half::f16;
use parking_lot::Mutex;

use self::kernels::Norm;
use super::cache::KvCache;
use super::kernels::{pack, Attend, Scratch, Tile, TILE};
use super::pool::{Pool, Worker};
use super::prefill::tiles;
use super::{padded, widened, Isa, CHUNK};
use crate::canon::constants::BLOCK;
use crate::canon::encoder::{
    Embedding, Encoder, EncoderArchitecture, EncoderDevice, EncoderWeights, LayerNorm,
};
use crate::canon::{ops, DeviceError, Tensor, PAGE};

/// Most texts that are computed together: each has pages of its own.
const TEXTS: usize = 64;

/// The CPU implementation over the encoder `M`.
pub struct CpuEncoder<M> {
    model: Arc<M>,
    kernels: &'static super::kernels::Kernels,
    own: &'static kernels::Kernels,
    vectors: Vectors,
    /// Keys and values of two layers in turn, so that a thread may go on to the next while others still read this one's.
    cache: KvCache,
    /// One computation at a time uses the threads; callers take turns.
    state: Mutex<(Pool, Vec<Lane>)>,
}

/// Gains and biases, widened to f32 and padded to whole panels.
struct Vectors {
    norm: Norm,
    /// Of each position: its embedding plus that of the first kind of segment.
    places: Vec<f32>,
    layers: Vec<LayerVectors>,
}

struct LayerVectors {
    /// Of q, k and v, each from a multiple of [`Sizes::width`] on.
    qkv: Vec<f32>,
    o: Vec<f32>,
    attn_norm: Norm,
    up: Vec<f32>,
    down: Vec<f32>,
    ffn_norm: Norm,
}

/// Lengths of activation rows, padded to whole panels.
#[derive(Clone, Copy)]
struct Sizes {
    width: usize,
    true_width: usize,
    ffn: usize,
    true_ffn: usize,
    heads: usize,
    dim: usize,
    eps: f32,
}

/// A position that is computed.
#[derive(Clone, Copy)]
struct Row {
    token: u32,
    position: usize,
    /// Which text of the step.
    text: usize,
    /// Which row of the step.
    index: usize,
}

/// What one thread works in.
#[derive(Default)]
struct Lane {
    tiles: Vec<Tile>,
    rows: Vec<Row>,
    finite: Vec<bool>,
    /// Stored activations of each row, which are the residual stream too.
    x: Vec<f32>,
    packed: Vec<f32>,
    qkv: Vec<f32>,
    attn: Vec<f32>,
    act: Vec<f32>,
    y: Vec<f32>,
    halves: Vec<f16>,
    scratch: Scratch,
}

/// What a step reads.
struct Step<'a> {
    weights: EncoderWeights<'a>,
    sizes: Sizes,
    /// Of each text: its pages, and its positions.
    texts: Vec<(Vec<u32>, usize)>,
}

impl Sizes {
    fn new(arch: &EncoderArchitecture) -> Self {
        let (true_width, true_ffn) = (arch.width as usize, arch.ffn as usize);
        Self {
            width: padded(true_width),
            true_width,
            ffn: padded(true_ffn),
            true_ffn,
            heads: arch.heads as usize,
            dim: arch.head_dim() as usize,
            eps: arch.eps,
        }
    }
}

impl Norm {
    fn new(norm: &LayerNorm<'_>) -> Self {
        Self { gain: widened(norm.gain), bias: widened(norm.bias) }
    }
}

impl Vectors {
    fn new(arch: &EncoderArchitecture, weights: &EncoderWeights<'_>) -> Self {
        let sizes = Sizes::new(arch);
        let mut places = vec![0.0; arch.context as usize * sizes.width];
        let (mut place, mut segment) = (vec![f16::ZERO; sizes.true_width], vec![f16::ZERO; sizes.true_width]);
        weights.types.row(0, &mut segment);
        for (position, to) in places.chunks_exact_mut(sizes.width).enumerate() {
            weights.positions.row(position, &mut place);
            let sums = place.iter().zip(&segment).map(|(p, s)| p.to_f32() + s.to_f32());
            to.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum);
        }
        let layers = weights.layers.iter().map(|l| LayerVectors {
            qkv: [l.q, l.k, l.v].iter().flat_map(|w| widened(w.bias)).collect(),
            o: widened(l.o.bias),
            attn_norm: Norm::new(&l.attn_norm),
            up: widened(l.up.bias),
            down: widened(l.down.bias),
            ffn_norm: Norm::new(&l.ffn_norm),
        });
        Self { norm: Norm::new(&weights.norm), places, layers: layers.collect() }
    }
}

impl<M: Encoder> CpuEncoder<M> {
    /// An engine of `threads` threads; panics where the processor lacks `isa`.
    pub fn new(model: Arc<M>, isa: Isa, threads: usize) -> std::io::Result<Self> {
        let arch = model.arch();
        let vectors = Vectors::new(arch, &model.weights());
        let pages = TEXTS.max((arch.context as usize).div_ceil(PAGE)).max(CHUNK / PAGE + TEXTS);
        let cache = KvCache::sized(2, arch.heads as usize, arch.head_dim() as usize, pages)?;
        let pool = Pool::new(threads)?;
        let lanes = (0..pool.threads()).map(|_| Lane::default()).collect();
        let (kernels, own) = (isa.kernels(), kernels::Kernels::of(isa));
        Ok(Self { model, kernels, own, vectors, cache, state: Mutex::new((pool, lanes)) })
    }

    /// How many of `texts` are computed in the next step: as many as its rows and pages allow, at least one.
    fn take(texts: &[&[u32]]) -> usize {
        let mut rows = 0;
        let fits = |text: &&&[u32]| {
            rows += text.len();
            rows <= CHUNK
        };
        texts.iter().take(TEXTS).take_while(fits).count().max(1)
    }

    /// The vectors of a step's texts.
    fn step(&self, texts: &[&[u32]]) -> Vec<Embedding> {
        let sizes = Sizes::new(self.model.arch());
        let mut free = 0u32..;
        let pages = |text: &&[u32]| (free.by_ref().take(text.len().div_ceil(PAGE)).collect(), text.len());
        let step = Step { weights: self.model.weights(), sizes, texts: texts.iter().map(pages).collect() };
        let rows = texts.iter().enumerate().flat_map(|(text, tokens)| {
            tokens.iter().enumerate().map(move |(position, token)| (text, position, *token))
        });
        let rows: Vec<Row> = rows
            .enumerate()
            .map(|(index, (text, position, token))| Row { token, position, text, index })
            .collect();

        let mut finite = vec![true; texts.len()];
        let mut x = vec![0.0; rows.len() * sizes.true_width];
        let (pool, lanes) = &mut *self.state.lock();
        pool.each(lanes, |worker, lane| {
            lane.take(&rows, worker);
            self.lane(&step, worker, lane);
        });
        for lane in lanes.iter() {
            for (row, ok) in lane.rows.iter().zip(&lane.finite) {
                finite[row.text] &= ok;
            }
            for (row, from) in lane.rows.iter().zip(lane.x.chunks_exact(sizes.width)) {
                x[row.index * sizes.true_width..][..sizes.true_width]
                    .copy_from_slice(&from[..sizes.true_width]);
            }
        }
        let mut rest = &x[..];
        let mut pooled = |(text, mut finite): (&&[u32], bool)| {
            let own;
            (own, rest) = rest.split_at(text.len() * sizes.true_width);
            let vector = ops::unit(&mean(own, sizes.true_width), &mut finite);
            Embedding { vector, finite }
        };
        texts.iter().zip(finite).map(&mut pooled).collect()
    }

    /// All layers for this thread's rows.
    fn lane(&self, step: &Step<'_>, worker: Worker<'_>, lane: &mut Lane) {
        let s = &step.sizes;
        let Lane { tiles, rows, finite, x, packed, qkv, attn, act, y, halves, scratch } = lane;
        for (buffer, len) in [
            (&mut *x, s.width),
            (&mut *packed, s.width.max(s.ffn)),
            (&mut *qkv, 3 * s.width),
            (&mut *attn, s.width),
            (&mut *act, s.ffn),
            (&mut *y, s.width),
        ] {
            buffer.clear();
            buffer.resize(rows.len() * len, 0.0);
        }
        let zeros = vec![0.0; s.width];
        for ((row, x), finite) in rows.iter().zip(x.chunks_exact_mut(s.width)).zip(&mut *finite) {
            for (d, x) in x[..s.true_width].iter_mut().enumerate() {
                *x = step.weights.embedding.at(row.token as usize, d).to_f32();
            }
            let place = &self.vectors.places[row.position * s.width..][..s.width];
            *finite &= (self.own.layernorm)(x, place, &zeros, &self.vectors.norm, s.true_width, s.eps);
        }
        let product = |w: &Tensor<'_>, packed: &[f32], y: &mut [f32], stride: usize, tiles: &[Tile]| {
            if !tiles.is_empty() {
                (self.kernels.gemm)(w, packed, tiles, y, stride);
            }
        };
        let normed = |x: &mut [f32], y: &[f32], bias: &[f32], norm: &Norm, finite: &mut [bool]| {
            for ((x, y), finite) in x.chunks_exact_mut(s.width).zip(y.chunks_exact(s.width)).zip(finite) {
                *finite &= (self.own.layernorm)(x, y, bias, norm, s.true_width, s.eps);
            }
        };
        for (layer, (w, own)) in step.weights.layers.iter().zip(&self.vectors.layers).enumerate() {
            pack(x, s.width, s.true_width, tiles, packed);
            for (i, w) in [&w.q, &w.k, &w.v].into_iter().enumerate() {
                if !tiles.is_empty() {
                    product(&w.weight, packed, &mut qkv[i * s.width..], 3 * s.width, tiles);
                }
            }
            for ((qkv, row), finite) in qkv.chunks_exact_mut(3 * s.width).zip(&*rows).zip(&mut *finite) {
                *finite &= (self.own.add)(qkv, &own.qkv);
                // SAFETY: readers of this layer wait at the barrier below; those of the last but one have passed the last
                // barrier; this position is this thread's.
                unsafe { self.keep(step, layer, row, &qkv[s.width..], halves) };
            }
            worker.barrier();
            for tile in &*tiles {
                let mut start = tile.start;
                for text in rows[start..start + tile.count].chunk_by(|a, b| a.text == b.text) {
                    let range = start..start + text.len();
                    // SAFETY: all positions of this layer were written before the barrier.
                    unsafe { self.attention(step, layer, text[0].text, range, qkv, attn, finite, scratch) };
                    start += text.len();
                }
            }
            pack(attn, s.width, s.true_width, tiles, packed);
            product(&w.o.weight, packed, y, s.width, tiles);
            normed(x, y, &own.o, &own.attn_norm, finite);

            pack(x, s.width, s.true_width, tiles, packed);
            product(&w.up.weight, packed, act, s.ffn, tiles);
            for (act, finite) in act.chunks_exact_mut(s.ffn).zip(&mut *finite) {
                *finite &= (self.own.gelu)(act, &own.up);
            }
            pack(act, s.ffn, s.true_ffn, tiles, packed);
            product(&w.down.weight, packed, y, s.width, tiles);
            normed(x, y, &own.down, &own.ffn_norm, finite);
        }
    }

    /// Keeps the keys and values of a position, which `kv` holds as exact halves.
    ///
    /// # Safety
    /// No other thread reads this layer's keys and values, or writes those of this position, meanwhile.
    unsafe fn keep(&self, step: &Step<'_>, layer: usize, row: &Row, kv: &[f32], halves: &mut Vec<f16>) {
        let Sizes { width, heads, dim, .. } = step.sizes;
        halves.resize(kv.len(), f16::ZERO);
        (self.kernels.narrow)(kv, halves);
        let (keys, values) = halves.split_at(width);
        let (page, slot) = (step.texts[row.text].0[row.position / PAGE], row.position % PAGE);
        for (head, (key, value)) in
            keys.chunks_exact(dim).zip(values.chunks_exact(dim)).take(heads).enumerate()
        {
            // SAFETY: the caller's contract.
            unsafe { self.cache.put(page, slot, layer % 2, head, key, value) };
        }
    }

    /// Attention of at most a tile of rows of one text, over all its positions, into the rows of `attn`.
    ///
    /// # Safety
    /// Nobody writes this layer's keys and values of the text meanwhile.
    #[allow(clippy::too_many_arguments)]
    unsafe fn attention(
        &self,
        step: &Step<'_>,
        layer: usize,
        text: usize,
        rows: std::ops::Range<usize>,
        qkv: &[f32],
        attn: &mut [f32],
        finite: &mut [bool],
        scratch: &mut Scratch,
    ) {
        let Sizes { width, heads, dim, .. } = step.sizes;
        let (pages, positions) = &step.texts[text];
        let count = rows.len();
        let (first, last) = ([0; TILE], [positions - 1; TILE]);
        for head in 0..heads {
            let mut queries: [&[f32]; TILE] = [&[]; TILE];
            for (query, row) in queries.iter_mut().zip(rows.clone()) {
                *query = &qkv[row * 3 * width + head * dim..][..dim];
            }
            // SAFETY: the caller keeps writers away.
            let pages: Vec<&[f16]> =
                pages.iter().map(|page| unsafe { self.cache.part(*page, layer % 2, head) }).collect();
            let job = Attend {
                queries: &queries[..count],
                first: &first[..count],
                last: &last[..count],
                pages: &pages,
                layout: self.cache.layout(),
                scale: ops::score_scale(dim as u32),
            };
            let bad = (self.kernels.attend)(&job, scratch);
            for (i, row) in rows.clone().enumerate() {
                let out = &scratch.out[i * padded(dim)..][..dim];
                attn[row * width + head * dim..][..dim].copy_from_slice(out);
                finite[row] &= bad >> i & 1 == 0;
            }
        }
    }
}

impl Lane {
    /// Takes over the tiles that are this thread's, with their rows.
    fn take(&mut self, all: &[Row], worker: Worker<'_>) {
        self.tiles.clear();
        self.rows.clear();
        for tile in tiles(all.len(), worker.of).skip(worker.index).step_by(worker.of) {
            self.tiles.push(Tile { start: self.rows.len(), count: tile.count });
            self.rows.extend(&all[tile.start..tile.start + tile.count]);
        }
        self.finite.clear();
        self.finite.resize(self.rows.len(), true);
    }
}

/// The mean of rows: blocked sums, as [`ops::mean`] has them, a row at a time.
fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    let mut acc = vec![0.0; width];
    for block in rows.chunks(BLOCK * width) {
        acc.fill(0.0);
        for row in block.chunks_exact(width) {
            acc.iter_mut().zip(row).for_each(|(acc, x)| *acc += x);
        }
        // A sum that begins with +0 never becomes -0, so + 0 changes nothing.
        total.iter_mut().zip(&acc).for_each(|(total, acc)| *total += acc);
    }
    let count = (rows.len() / width) as f32;
    total.iter_mut().for_each(|x| *x /= count);
    total
}

impl<M: Encoder> EncoderDevice for CpuEncoder<M> {
    fn arch(&self) -> &EncoderArchitecture {
        self.model.arch()
    }

    fn encode(&self, texts: &[&[u32]]) -> Result<Vec<Embedding>, DeviceError> {
        let (mut rest, mut vectors) = (texts, Vec::with_capacity(texts.len()));
        while !rest.is_empty() {
            let now;
            (now, rest) = rest.split_at(Self::take(rest));
            vectors.extend(self.step(now));
        }
        Ok(vectors)
    }
}
