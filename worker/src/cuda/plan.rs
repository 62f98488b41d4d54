//! Which kernels compute a step, with which grids: the one place that knows, for a card and for the emulator.

use super::args::*;
use super::gpu::Launch;
use super::pack::{padded, SIDE};
use crate::canon::constants::BLOCK;
use crate::canon::device::{Point, PAGE};
use crate::canon::{ops, Architecture};

// The kernels' constants of the same names.
const DECODE_THREADS: usize = 256;
const DECODE_GROUPS: usize = 8;
const PREFILL_THREADS: usize = 256;
const TILE_S: usize = 64;
const TILE_R: usize = 128;
const NORM_THREADS: usize = 256;
const HEAD_THREADS: usize = 128;
const ATTEND_THREADS: usize = 128;
const HEADS: usize = 8;
const SLICE: usize = 128;
const TOP_THREADS: usize = 256;
const SLICE_LOGITS: usize = 1024;
const CHOOSE_THREADS: usize = 1024;
pub const MAX_TOP_K: usize = 64;

/// Blocks of positions that are attended to side by side; a thread block takes every so many.
const MAX_SPLIT: usize = 64;

/// How many rows a step has, as far as its launches depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// Up to `WIDTHS[i]` rows, each weight read once.
    Few(usize),
    /// This many rows, in tiles.
    Many(usize),
}

impl Width {
    pub fn of(rows: usize) -> Self {
        match WIDTHS.iter().position(|width| rows <= *width) {
            Some(i) => Self::Few(i),
            None => Self::Many(rows),
        }
    }

    /// Rows that launches cover.
    fn rows(self) -> usize {
        match self {
            Self::Few(i) => WIDTHS[i],
            Self::Many(rows) => rows,
        }
    }

    fn pick(self, kernels: &ProductKernels) -> &'static str {
        match self {
            Self::Few(i) => kernels[i],
            Self::Many(_) => kernels[WIDTHS.len()],
        }
    }
}

/// Where the weights of a layer are.
#[derive(Clone, Copy, Debug)]
pub struct LayerPlaces {
    pub attn_gain: Address,
    pub qkv: Matrix,
    pub bias: Address,
    /// Gains of the norms of heads; not there where the model has none.
    pub q_gain: Address,
    pub k_gain: Address,
    pub o: Matrix,
    pub ffn_gain: Address,
    pub gate_up: Matrix,
    pub down: Matrix,
    pub cache: Cache,
}

/// Where all weights are.
#[derive(Clone, Debug)]
pub struct Places {
    pub embedding: Matrix,
    pub head: Matrix,
    pub final_gain: Address,
    pub rope: Address,
    pub layers: Vec<LayerPlaces>,
}

/// Where a step's input, output and activations are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Buffers {
    pub step: Step,
    /// Residual stream, f32.
    pub h: Address,
    /// What a product reads, f16: normalised, or heads side by side.
    pub x: Address,
    /// Queries, keys and values before heads are normalised, f32; not there where none are.
    pub raw: Address,
    pub q: Address,
    pub attended: Address,
    pub gated: Address,
    pub scores: Address,
    pub peaks: Address,
    pub sums: Address,
    pub parts: Address,
    pub x_final: Address,
    /// Of the head and the sampler; `head_step` has a count of its own and reads nothing else.
    pub head_step: Step,
    pub head_x: Address,
    pub logits: Address,
    pub choices: Address,
    pub candidates: Address,
    pub tokens: Address,
}

/// Bytes a row of the step needs in each buffer, and what does not depend on rows. `place` gives an address.
impl Buffers {
    /// Buffers for `rows` rows of a step and `head_rows` rows of logits, over sequences of `blocks` blocks of positions.
    pub fn new<E>(
        arch: &Architecture,
        rows: usize,
        head_rows: usize,
        mut place: impl FnMut(usize) -> Result<Address, E>,
    ) -> Result<Self, E> {
        let blocks = blocks(arch);
        let (heads, dim) = (arch.heads as usize, arch.head_dim as usize);
        let [width, q, ffn] = [arch.width, arch.q_rows(), arch.ffn].map(|n| padded(n as usize));
        let slices = (arch.vocab as usize).div_ceil(SLICE_LOGITS);
        let mut of = |count: usize, elements: usize, bytes: usize| place(count * elements * bytes);
        let step = Step {
            count: of(1, 1, 4)?,
            rows: of(rows, 1, size_of::<Row>())?,
            pages: of(rows, blocks, 4)?,
            bad: of(rows, 1, 4)?,
        };
        Ok(Self {
            step,
            h: of(rows, width, 4)?,
            x: of(rows, width, 2)?,
            raw: if arch.qk_norm { of(rows, qkv_rows(arch), 4)? } else { 0 },
            q: of(rows, q, 2)?,
            attended: of(rows, q, 2)?,
            gated: of(rows, ffn, 2)?,
            scores: of(rows, heads * blocks * PAGE, 4)?,
            peaks: of(rows, heads * blocks, 4)?,
            sums: of(rows, heads * blocks, 4)?,
            parts: of(rows, heads * blocks * padded(dim), 4)?,
            x_final: of(rows, width, 2)?,
            head_step: Step { count: of(1, 1, 4)?, ..Step::default() },
            head_x: of(head_rows, width, 2)?,
            logits: of(head_rows, arch.vocab as usize, 4)?,
            choices: of(head_rows, 1, size_of::<Choice>())?,
            candidates: of(head_rows, slices * MAX_TOP_K, 8)?,
            tokens: of(head_rows, 1, 4)?,
        })
    }

    /// Bytes that one row of a step takes up.
    pub fn bytes_a_row(arch: &Architecture) -> usize {
        let mut bytes = 0;
        let Ok(_) = Self::new(arch, 1, 0, |n| {
            bytes += n;
            Ok::<_, std::convert::Infallible>(0)
        });
        bytes
    }
}

/// Most blocks of positions that a sequence has.
pub fn blocks(arch: &Architecture) -> usize {
    (arch.context as usize).div_ceil(PAGE)
}

/// Everything that launches point to.
#[derive(Clone, Debug)]
pub struct Plan {
    pub arch: Architecture,
    pub places: Places,
    pub buffers: Buffers,
}

impl Plan {
    /// From the tokens of a step to the residual stream.
    pub fn embed(&self, width: Width) -> Launch {
        let b = &self.buffers;
        let args = EmbedArgs { step: b.step, table: self.places.embedding, h: b.h };
        Launch::new(EMBED, [width.rows(), 1, 1], NORM_THREADS, &args)
    }

    /// One layer, over sequences of at most `blocks` blocks of positions.
    pub fn layer(&self, layer: usize, width: Width, blocks: usize) -> Vec<Launch> {
        let (b, w) = (&self.buffers, &self.places.layers[layer]);
        let mut launches = vec![self.norm(w.attn_gain, b.x, width)];
        let to = Heads { rope: self.places.rope, q: b.q, cache: w.cache, heads: self.arch.heads, unused: 0 };
        if self.arch.qk_norm {
            let (raw, product) = product(&LOGITS, b.step, w.qkv, b.x, width);
            launches.push(raw.with(&LogitsArgs { product, y: b.raw }));
            launches.push(self.head_norm(w, to, width));
        } else {
            let (qkv, product) = product(&QKV, b.step, w.qkv, b.x, width);
            launches.push(qkv.with(&QkvArgs { product, bias: w.bias, to }));
        }
        launches.extend(self.attention(w.cache, width, blocks));
        launches.push(self.residual(w.o, b.attended, width));
        launches.push(self.norm(w.ffn_gain, b.x, width));
        let (gate, product) = self::product(&GATE, b.step, w.gate_up, b.x, width);
        launches.push(gate.with(&GateArgs { product, a: b.gated }));
        launches.push(self.residual(w.down, b.gated, width));
        launches
    }

    /// From the residual stream to `x_final`.
    pub fn finish(&self, width: Width) -> Launch {
        self.norm(self.places.final_gain, self.buffers.x_final, width)
    }

    /// A whole step.
    pub fn step(&self, width: Width, blocks: usize) -> Vec<Launch> {
        let layers = (0..self.places.layers.len()).flat_map(|layer| self.layer(layer, width, blocks));
        [self.embed(width)].into_iter().chain(layers).chain([self.finish(width)]).collect()
    }

    /// From `head_x` to logits.
    pub fn logits(&self, width: Width) -> Launch {
        let b = &self.buffers;
        let (logits, product) = product(&LOGITS, b.head_step, self.places.head, b.head_x, width);
        logits.with(&LogitsArgs { product, y: b.logits })
    }

    /// From logits to tokens.
    pub fn sample(&self, width: Width) -> [Launch; 2] {
        let b = &self.buffers;
        let args = SampleArgs {
            count: b.head_step.count,
            choices: b.choices,
            logits: b.logits,
            candidates: b.candidates,
            tokens: b.tokens,
            vocab: self.arch.vocab,
            unused: 0,
        };
        let slices = (self.arch.vocab as usize).div_ceil(SLICE_LOGITS);
        [
            Launch::new(TOP, [slices, width.rows(), 1], TOP_THREADS, &args),
            Launch::new(CHOOSE, [width.rows(), 1, 1], CHOOSE_THREADS, &args),
        ]
    }

    fn norm(&self, gain: Address, x: Address, width: Width) -> Launch {
        let (b, arch) = (&self.buffers, &self.arch);
        let args = NormArgs { step: b.step, h: b.h, gain, x, width: arch.width, eps: arch.eps };
        Launch::new(NORM, [width.rows(), 1, 1], NORM_THREADS, &args)
    }

    fn head_norm(&self, w: &LayerPlaces, to: Heads, width: Width) -> Launch {
        let (b, arch) = (&self.buffers, &self.arch);
        let args = HeadNormArgs {
            step: b.step,
            y: b.raw,
            bias: w.bias,
            q_gain: w.q_gain,
            k_gain: w.k_gain,
            to,
            eps: arch.eps,
            unused: 0,
        };
        let heads = (arch.heads + 2 * arch.kv_heads) as usize;
        Launch::new(HEAD_NORM, [heads, 1, width.rows()], HEAD_THREADS, &args)
    }

    fn residual(&self, w: Matrix, x: Address, width: Width) -> Launch {
        let (residual, product) = product(&RESIDUAL, self.buffers.step, w, x, width);
        residual.with(&ResidualArgs { product, h: self.buffers.h })
    }

    fn attention(&self, cache: Cache, width: Width, blocks: usize) -> [Launch; 3] {
        let (b, heads, dim) = (&self.buffers, self.arch.heads as usize, self.arch.head_dim as usize);
        let key_heads = self.arch.kv_heads as usize;
        let args = AttendArgs {
            step: b.step,
            cache,
            q: b.q,
            scores: b.scores,
            peaks: b.peaks,
            sums: b.sums,
            parts: b.parts,
            out: b.attended,
            heads: self.arch.heads,
            blocks: self::blocks(&self.arch) as u32,
            scale: ops::score_scale(self.arch.head_dim),
            window: self.arch.window.unwrap_or(u32::MAX),
        };
        let across = key_heads * (heads / key_heads).div_ceil(HEADS);
        let (split, rows) = (split(blocks), width.rows());
        [
            Launch::new(SCORES, [split, across, rows], ATTEND_THREADS, &args),
            Launch::new(VALUES, [split, across * dim.div_ceil(SLICE), rows], ATTEND_THREADS, &args),
            Launch::new(COMBINE, [heads, 1, rows], ATTEND_THREADS, &args),
        ]
    }
}

/// How many launches of [`Plan::layer`] come before a tensor is there.
pub fn launches_until(point: Point, arch: &Architecture) -> usize {
    let heads = usize::from(arch.qk_norm);
    match point {
        Point::AttnNorm => 1,
        Point::Query | Point::Key | Point::Value => 2 + heads,
        Point::Attn => 5 + heads,
        Point::Middle => 6 + heads,
        Point::FfnNorm => 7 + heads,
        Point::Act => 8 + heads,
        Point::Residual => 9 + heads,
    }
}

/// Rows of the product that queries, keys and values are.
fn qkv_rows(arch: &Architecture) -> usize {
    (arch.q_rows() + 2 * arch.kv_rows()) as usize
}

/// How many blocks of positions a launch works on side by side, for sequences of at most `blocks`: one of few values, so
/// that few steps need recording.
pub fn split(blocks: usize) -> usize {
    blocks.next_power_of_two().min(MAX_SPLIT)
}

/// A launch that lacks its argument.
struct Shape {
    kernel: &'static str,
    grid: [usize; 3],
    threads: usize,
}

impl Shape {
    fn with(&self, args: &impl bytemuck::Pod) -> Launch {
        Launch::new(self.kernel, self.grid, self.threads, args)
    }
}

/// How the product of `w` and `x` is launched.
fn product(kernels: &ProductKernels, step: Step, w: Matrix, x: Address, width: Width) -> (Shape, Product) {
    let (rows, blocks) = (w.rows as usize, (w.cols as usize).div_ceil(BLOCK));
    let kernel = width.pick(kernels);
    let (wave, shape) = match width {
        Width::Few(i) => {
            let width = WIDTHS[i];
            let (wave, groups) = wave(width, blocks);
            let grid = [rows.div_ceil(SIDE * groups), 1, 1];
            (wave, Shape { kernel, grid, threads: SIDE * wave * groups })
        }
        Width::Many(many) => {
            let grid = [rows.div_ceil(TILE_R), many.div_ceil(TILE_S), 1];
            (0, Shape { kernel, grid, threads: PREFILL_THREADS })
        }
    };
    (shape, Product { step, w, x, wave: wave as u32, unused: 0 })
}

/// Blocks of columns and groups of rows that a block of threads takes at once, for steps of `width` rows.
fn wave(width: usize, blocks: usize) -> (usize, usize) {
    // Decode<T>::WAVE
    let most = match width {
        1 | 2 => 32,
        4 => 16,
        8 | 16 => 8,
        _ => 4,
    };
    let wave = blocks.div_ceil(blocks.div_ceil(most));
    // One or two rows: small blocks of threads, so that every multiprocessor has several. More: large ones, since each
    // reads all activations.
    let threads = if width <= 2 { DECODE_THREADS / 2 } else { DECODE_THREADS };
    (wave, (threads / (SIDE * wave)).clamp(1, DECODE_GROUPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_threads_are_within_the_kernels_bounds() {
        for width in WIDTHS {
            for blocks in 1..=2048 {
                let (wave, groups) = wave(width, blocks);
                assert!(
                    SIDE * wave * groups <= DECODE_THREADS && groups <= DECODE_GROUPS,
                    "{width} {blocks}"
                );
                assert!(wave <= blocks && blocks.div_ceil(wave) <= blocks.div_ceil(4));
            }
        }
        assert_eq!([1, 3, 32].map(Width::of), [Width::Few(0), Width::Few(2), Width::Few(5)]);
        assert_eq!(Width::of(33), Width::Many(33));
    }
}
