//! The kernels: lanes are output rows, so every output keeps the ascending order of its own sum.
//!
//! One generic source; the bottom of the file instantiates it for each instruction set.

use std::ops::Range;

use half::f16;

use super::cache::Layout;
use super::packed::{self, expand_tile, PanelTile};
use super::simd::{Lanes, Simd};
use crate::canon::constants::*;
use crate::canon::tensor::PANEL;
use crate::canon::{ops, Tensor, PAGE};

/// Panels of positions on a page.
const PANELS: usize = PAGE / PANEL;

/// Greatest number of tokens, or queries, that share a load of weights.
pub const TILE: usize = 6;

/// Consecutive rows of an activation matrix that are computed together.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub start: usize,
    /// 1 to [`TILE`].
    pub count: usize,
}

/// The kernels of one instruction set. Activations are f32 that hold exact halves; outputs are raw sums unless said.
/// A kernel that stores halves answers whether all were finite; what was not is +0.
#[allow(clippy::type_complexity)] // a table of plain functions, each spelled out once
pub struct Kernels {
    /// y = w x, with as many elements as the panels have rows.
    pub gemv: fn(w: &Tensor<'_>, x: &[f32], y: &mut [f32]),
    /// The same for the rows of x in `tiles`, packed by [`pack`]; row i of y begins at `i * stride`.
    pub gemm: fn(w: &Tensor<'_>, packed: &[f32], tiles: &[Tile], y: &mut [f32], stride: usize),
    /// out = f16(h / rms(h) * gain) of the first `width` elements; all lengths are padded to whole panels.
    pub rmsnorm: fn(h: &[f32], gain: &[f32], width: usize, eps: f32, out: &mut [f32]) -> bool,
    /// One head divided by its root mean square and times gain, in place and not rounded.
    pub head_norm: fn(head: &mut [f32], gain: &[f32], eps: f32),
    /// Turns one head in place and rounds it to halves.
    pub rope: fn(head: &mut [f32], cos: &[f32], sin: &[f32]) -> bool,
    /// gate = f16(silu(gate) * up), lengths padded to whole panels.
    pub silu_gate: fn(gate: &mut [f32], up: &[f32]) -> bool,
    /// Rounds to halves; what is beyond their range becomes infinite.
    pub narrow: fn(x: &[f32], out: &mut [f16]),
    /// Attention of the queries of one key head; answers a bit for each query whose output was not finite.
    pub attend: fn(job: &Attend<'_>, scratch: &mut Scratch) -> u32,
    /// exp in place, length padded to whole panels.
    #[cfg(test)]
    pub exp: fn(x: &mut [f32]),
}

/// Queries that share a key head.
pub struct Attend<'a> {
    /// One to [`TILE`] queries of `dim` elements.
    pub queries: &'a [&'a [f32]],
    /// For each query the first position that it sees, and the last.
    pub first: &'a [usize],
    pub last: &'a [usize],
    /// Of each page up to the last position: the head's part.
    pub pages: &'a [&'a [f16]],
    pub layout: Layout,
    pub scale: f32,
}

/// What [`Kernels::attend`] works in and where it leaves its output.
#[derive(Default)]
pub struct Scratch {
    scores: Vec<f32>,
    /// `[query][dim padded to whole panels]`, halves.
    pub out: Vec<f32>,
}

/// Lays the rows in `tiles` out as the GEMM reads them: by 128-block of columns, by tile, by column, by row.
pub fn pack(x: &[f32], stride: usize, cols: usize, tiles: &[Tile], packed: &mut [f32]) {
    let rows: usize = tiles.iter().map(|t| t.count).sum();
    for k0 in (0..cols).step_by(BLOCK) {
        let len = BLOCK.min(cols - k0);
        for tile in tiles {
            let to = &mut packed[k0 * rows + tile.start * len..][..tile.count * len];
            for t in 0..tile.count {
                let from = &x[(tile.start + t) * stride + k0..][..len];
                for (to, x) in to[t..].iter_mut().step_by(tile.count).zip(from) {
                    *to = *x;
                }
            }
        }
    }
}

/// M rows of x times N vectors of a panel's rows over `len` columns: c = or c += the block's sum.
///
/// # Safety
/// `w` has `len` rows of 64 halves (from its lane on), `x` answers for `len` x M, `c` has M rows of N vectors.
#[inline(always)]
unsafe fn block<S: Simd, const M: usize, const N: usize, const EXACT: bool>(
    w: *const f16,
    x: impl Fn(usize, usize) -> f32,
    len: usize,
    c: *mut f32,
    stride: usize,
    first: bool,
    prefetch: bool,
) {
    // SAFETY: the caller's contract covers every address; its wrapper has the instruction set of S.
    unsafe {
        let mut acc = [[S::splat(0.0); N]; M];
        for k in 0..len {
            let row = w.add(k * PANEL);
            let weights: [S; N] = std::array::from_fn(|j| S::load_half(row.add(j * S::LANES)));
            if prefetch {
                S::prefetch(row.wrapping_add(BLOCK * PANEL));
                S::prefetch(row.wrapping_add(BLOCK * PANEL + PANEL / 2));
            }
            for (t, acc) in acc.iter_mut().enumerate() {
                let x = S::splat(x(k, t));
                for (acc, w) in acc.iter_mut().zip(weights) {
                    *acc = if EXACT { S::fma_exact(x, w, *acc) } else { S::fma(x, w, *acc) };
                }
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                let c = c.add(t * stride + j * S::LANES);
                if first { *acc } else { S::load(c).add(*acc) }.store(c);
            }
        }
    }
}

/// Runs `$body` with the constant `$m` standing for the tile's count.
macro_rules! by_count {
    ($count:expr, $m:ident => $body:expr) => {
        by_count!($count, $m => $body; 1 2 3 4 5 6)
    };
    ($count:expr, $m:ident => $body:expr; $($n:literal)*) => {
        match $count {
            $($n => { const $m: usize = $n; $body })*
            n => unreachable!("a tile of {n}"),
        }
    };
}

#[inline(always)]
unsafe fn gemv<S: Simd, const N: usize, const HALF: usize>(w: &Tensor<'_>, x: &[f32], y: &mut [f32]) {
    if let Some(packing) = w.packing {
        // SAFETY: the caller's contract.
        return unsafe { packed::gemv::<S, HALF>(packing, w, x, y) };
    }
    assert!(y.len().is_multiple_of(PANEL) && w.panels.len() == y.len() * x.len());
    for (panel, y) in w.panels.chunks_exact(x.len() * PANEL).zip(y.chunks_exact_mut(PANEL)) {
        for lane in (0..PANEL).step_by(N * S::LANES) {
            // SAFETY: a panel has x.len() rows of 64 halves and y 64 elements, of which this reads from `lane` on.
            unsafe {
                let (panel, y) = (panel.as_ptr().add(lane), y.as_mut_ptr().add(lane));
                let mut total = [S::splat(0.0); N];
                for (b, x) in x.chunks(BLOCK).enumerate() {
                    let mut acc = [S::splat(0.0); N];
                    for (k, x) in x.iter().enumerate() {
                        let row = panel.add((b * BLOCK + k) * PANEL);
                        let x = S::splat(*x);
                        for (j, acc) in acc.iter_mut().enumerate() {
                            *acc = S::fma_exact(x, S::load_half(row.add(j * S::LANES)), *acc);
                        }
                    }
                    for (total, acc) in total.iter_mut().zip(acc) {
                        *total = if b == 0 { acc } else { total.add(acc) };
                    }
                }
                for (j, total) in total.iter().enumerate() {
                    total.store(y.add(j * S::LANES));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn gemm<S: Simd, const N: usize, const HALF: usize>(
    w: &Tensor<'_>,
    packed: &[f32],
    tiles: &[Tile],
    y: &mut [f32],
    stride: usize,
) {
    let (cols, rows) = (w.cols, tiles.iter().map(|t| t.count).sum::<usize>());
    let count = w.panels.len() / w.panel_len();
    assert!(
        w.panels.len() == count * w.panel_len() && packed.len() >= rows * cols && count * PANEL <= stride
    );
    assert!(tiles.iter().all(|t| t.start + t.count <= rows));
    assert!(rows == 0 || y.len() >= (rows - 1) * stride + count * PANEL);
    let mut halves = PanelTile::ZERO;
    for (p, panel) in w.panels.chunks_exact(w.panel_len()).enumerate() {
        // Packed columns are expanded once for all lanes and tiles.
        let wide = if w.packing.is_some() { PANEL } else { N * S::LANES };
        for first in (0..PANEL).step_by(wide) {
            for k0 in (0..cols).step_by(BLOCK) {
                let len = BLOCK.min(cols - k0);
                let weights = match w.packing {
                    None => &panel[k0 * PANEL..],
                    Some(packing) => {
                        // SAFETY: the caller's contract.
                        unsafe { expand_tile::<S, HALF>(packing, panel, cols, k0, len, &mut halves) };
                        &halves.0[..]
                    }
                };
                for lane in (first..first + wide).step_by(N * S::LANES) {
                    for (i, tile) in tiles.iter().enumerate() {
                        // SAFETY: the asserts above bound every row of panel, packed and y that the tile touches.
                        unsafe {
                            let prefetch = i == 0 && w.packing.is_none();
                            let w = weights.as_ptr().add(lane);
                            let x = packed.as_ptr().add(k0 * rows + tile.start * len);
                            let c = y.as_mut_ptr().add(tile.start * stride + p * PANEL + lane);
                            by_count!(tile.count, M => {
                                block::<S, M, N, true>(w, |k, t| *x.add(k * M + t), len, c, stride, k0 == 0, prefetch)
                            });
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S) -> S {
    // SAFETY: register operations; the wrapper has the instruction set of S.
    unsafe {
        let min = S::splat(EXP_MIN);
        let clamped = x.max(min).min(S::splat(EXP_MAX));
        let n = clamped.mul(S::splat(LOG2E)).rint();
        let r = S::fma(n, S::splat(-LN2_HI), clamped);
        let r = S::fma(n, S::splat(-LN2_LO), r);
        let mut p = S::splat(EXP[0]);
        for c in &EXP[1..] {
            p = S::fma(p, r, S::splat(*c));
        }
        p.scale(n).keep_at_least(x, min)
    }
}

/// Calls `f` with the offset of every vector of a padded length.
#[inline(always)]
pub(super) fn vectors<S: Simd>(len: usize, mut f: impl FnMut(usize)) {
    assert!(len.is_multiple_of(PANEL));
    for i in (0..len).step_by(S::LANES) {
        f(i);
    }
}

#[cfg(test)]
#[inline(always)]
unsafe fn exp_all<S: Simd>(x: &mut [f32]) {
    let p = x.as_mut_ptr();
    // SAFETY: every vector lies within x.
    vectors::<S>(x.len(), |i| unsafe { exp(S::load(p.add(i))).store(p.add(i)) });
}

#[inline(always)]
unsafe fn narrow<S: Simd>(x: &[f32], out: &mut [f16]) {
    assert_eq!(x.len(), out.len());
    let whole = x.len() / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: every vector lies within x, and out is as long.
        unsafe { S::load(x.as_ptr().add(i)).store_half(out.as_mut_ptr().add(i)) };
    }
    for (out, x) in out[whole..].iter_mut().zip(&x[whole..]) {
        *out = f16::from_f32(*x);
    }
}

/// Sum of squares in the order of the dot rule.
#[inline(always)]
pub(super) fn squares(h: &[f32]) -> f32 {
    block_sums(h, |x, acc| x.mul_add(x, acc))
}

/// Blocked sum of what `add` adds of each element; four blocks at a time, for their chains are independent.
#[inline(always)]
pub(super) fn block_sums(h: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    let mut total = 0.0;
    for four in h.chunks(4 * BLOCK) {
        let mut acc = [0.0f32; 4];
        if four.len() == 4 * BLOCK {
            for k in 0..BLOCK {
                for (j, acc) in acc.iter_mut().enumerate() {
                    *acc = add(four[j * BLOCK + k], *acc);
                }
            }
        } else {
            for (acc, block) in acc.iter_mut().zip(four.chunks(BLOCK)) {
                *acc = block.iter().fold(0.0, |acc, x| add(*x, acc));
            }
        }
        // A sum that begins with +0 never becomes -0, so + 0 changes nothing.
        acc.iter().for_each(|acc| total += acc);
    }
    total
}

#[inline(always)]
unsafe fn rmsnorm<S: Simd>(h: &[f32], gain: &[f32], width: usize, eps: f32, out: &mut [f32]) -> bool {
    assert!(gain.len() == h.len() && out.len() == h.len());
    let rstd = ops::rstd(squares(&h[..width]), width, eps);
    let mut finite = true;
    let (h, gain, to) = (h.as_ptr(), gain.as_ptr(), out.as_mut_ptr());
    // SAFETY: every vector lies within out, and the inputs are as long.
    vectors::<S>(out.len(), |i| unsafe {
        let (x, ok) = S::load(h.add(i)).mul(S::splat(rstd)).mul(S::load(gain.add(i))).round_half();
        finite &= ok;
        x.store(to.add(i));
    });
    finite
}

#[inline(always)]
unsafe fn head_norm(head: &mut [f32], gain: &[f32], eps: f32) {
    assert_eq!(head.len(), gain.len());
    let rstd = ops::rstd(squares(head), head.len(), eps);
    head.iter_mut().zip(gain).for_each(|(x, g)| *x = (*x * rstd) * g);
}

#[inline(always)]
unsafe fn rope<S: Simd>(head: &mut [f32], cos: &[f32], sin: &[f32]) -> bool {
    let half = cos.len();
    assert!(head.len() == 2 * half && sin.len() == half);
    let (low, high) = head.split_at_mut(half);
    let mut finite = true;
    let whole = half / S::LANES * S::LANES;
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: every vector lies within the first `half` elements of all four.
        unsafe {
            let (a, b) = (S::load(low.as_ptr().add(i)), S::load(high.as_ptr().add(i)));
            let (cos, sin) = (S::load(cos.as_ptr().add(i)), S::load(sin.as_ptr().add(i)));
            let (x, x_ok) = S::fma(a, cos, b.mul(sin).neg()).round_half();
            let (y, y_ok) = S::fma(a, sin, b.mul(cos)).round_half();
            finite &= x_ok & y_ok;
            x.store(low.as_mut_ptr().add(i));
            y.store(high.as_mut_ptr().add(i));
        }
    }
    for i in whole..half {
        let (a, b) = (low[i], high[i]);
        low[i] = ops::store(a.mul_add(cos[i], -(b * sin[i])), &mut finite).to_f32();
        high[i] = ops::store(a.mul_add(sin[i], b * cos[i]), &mut finite).to_f32();
    }
    finite
}

#[inline(always)]
unsafe fn silu_gate<S: Simd>(gate: &mut [f32], up: &[f32]) -> bool {
    assert_eq!(gate.len(), up.len());
    let mut finite = true;
    let (a, up) = (gate.as_mut_ptr(), up.as_ptr());
    // SAFETY: every vector lies within gate, and up is as long.
    vectors::<S>(gate.len(), |i| unsafe {
        let g = S::load(a.add(i));
        let silu = g.div(S::splat(1.0).add(exp(g.neg())));
        let (x, ok) = silu.mul(S::load(up.add(i))).round_half();
        finite &= ok;
        x.store(a.add(i));
    });
    finite
}

/// scores[seen] * scale -> exp(. - max), and 0 before it and up to the padded length.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: &mut [f32], seen: Range<usize>, scale: f32) {
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let p = scores.as_mut_ptr();
    // SAFETY: every vector lies within scores.
    unsafe {
        let mut max = S::splat(f32::NEG_INFINITY);
        vectors::<S>(scores.len(), |i| {
            let s = S::load(p.add(i)).mul(S::splat(scale));
            s.store(p.add(i));
            max = max.max(s);
        });
        let mut lanes = [f32::NEG_INFINITY; PANEL];
        max.store(lanes.as_mut_ptr());
        let max = lanes.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
        vectors::<S>(scores.len(), |i| exp(S::load(p.add(i)).sub(S::splat(max))).store(p.add(i)));
    }
}

#[inline(always)]
unsafe fn attend<S: Simd, const N: usize>(job: &Attend<'_>, scratch: &mut Scratch) -> u32 {
    let Attend { queries, first, last, pages, layout, scale } = *job;
    let (count, dim) = (queries.len(), layout.dim);
    assert!(
        count <= TILE
            && first.len() == count
            && last.len() == count
            && queries.iter().all(|q| q.len() == dim)
    );
    let seen = last.iter().fold(0, |a, b| a.max(b + 1));
    // Nobody sees anything before this block.
    let from = first.iter().fold(seen, |a, b| a.min(*b)) / BLOCK * BLOCK;
    let padded = seen.next_multiple_of(PANEL);
    let out_stride = dim.next_multiple_of(PANEL);
    assert!(padded <= pages.len() * PAGE && pages.iter().all(|part| part.len() == layout.len()));
    scratch.scores.resize(count * padded, 0.0);
    scratch.out.resize(count * out_stride, 0.0);

    let scores = scratch.scores.as_mut_ptr();
    let mut rows = [std::ptr::null(); TILE];
    for (row, q) in rows.iter_mut().zip(queries) {
        *row = q.as_ptr();
    }
    for p in from / PANEL..padded / PANEL {
        for lane in (0..PANEL).step_by(N * S::LANES) {
            for k0 in (0..dim).step_by(BLOCK) {
                let len = BLOCK.min(dim - k0);
                // SAFETY: panel p lies within its page, each query has dim elements, each row of scores `padded`.
                unsafe {
                    let keys = pages[p / PANELS].as_ptr().add(layout.keys(p % PANELS));
                    let w = keys.add(k0 * PANEL + lane);
                    let c = scores.add(p * PANEL + lane);
                    by_count!(count, M => {
                        block::<S, M, N, true>(w, |k, t| *rows[t].add(k0 + k), len, c, padded, k0 == 0, false)
                    });
                }
            }
        }
    }

    let mut sums = [0.0f32; TILE];
    for (i, scores) in scratch.scores.chunks_exact_mut(padded).enumerate() {
        // SAFETY: the wrapper has the instruction set of S.
        unsafe { softmax::<S>(&mut scores[from..], first[i] - from..last[i] + 1 - from, scale) };
    }
    for j0 in (from..seen).step_by(BLOCK) {
        let mut acc = [0.0f32; TILE];
        for j in j0..seen.min(j0 + BLOCK) {
            for (i, acc) in acc[..count].iter_mut().enumerate() {
                *acc += scratch.scores[i * padded + j];
            }
        }
        sums.iter_mut().zip(acc).for_each(|(sum, acc)| *sum += acc);
    }

    let p = scratch.scores.as_ptr();
    for panel in 0..out_stride / PANEL {
        for lane in (0..PANEL).step_by(N * S::LANES) {
            for j0 in (from..seen).step_by(BLOCK) {
                let len = BLOCK.min(seen - j0);
                // SAFETY: positions below `seen` lie within their page and within each row of scores.
                unsafe {
                    let w = pages[j0 / PAGE].as_ptr().add(layout.values(panel) + lane);
                    let c = scratch.out.as_mut_ptr().add(panel * PANEL + lane);
                    by_count!(count, M => {
                        let x = |j: usize, t: usize| *p.add(t * padded + j0 + j);
                        block::<S, M, N, false>(w, x, len, c, out_stride, j0 == from, false)
                    });
                }
            }
        }
    }

    let mut bad = 0;
    for (i, (out, sum)) in scratch.out.chunks_exact_mut(out_stride).zip(sums).enumerate() {
        let to = out.as_mut_ptr();
        // SAFETY: every vector lies within out.
        vectors::<S>(out_stride, |d| unsafe {
            let (x, ok) = S::load(to.add(d)).div(S::splat(sum)).round_half();
            bad |= u32::from(!ok) << i;
            x.store(to.add(d));
        });
    }
    bad
}

/// A function that may be called wherever its table may be had, around a kernel compiled with the given features.
macro_rules! entry {
    ([$($feature:literal)?] fn($($arg:ident: $type:ty),*) -> $out:ty = $kernel:expr) => {{
        $(#[target_feature(enable = $feature)])?
        unsafe fn inner($($arg: $type),*) -> $out {
            // SAFETY: the instruction set is that of this function.
            unsafe { $kernel($($arg),*) }
        }
        fn outer($($arg: $type),*) -> $out {
            // SAFETY: `Isa::kernels` hands the table out only where the processor has the instruction set.
            unsafe { inner($($arg),*) }
        }
        outer
    }};
}

pub(super) use entry;

/// The table of one instruction set: vector type, vectors of a GEMV step, of a GEMM tile and of half a panel, features.
macro_rules! table {
    ($name:ident, $simd:ty, $gemv:literal, $gemm:literal, $half:literal, $feature:tt) => {
        pub(super) static $name: Kernels = Kernels {
            gemv: entry!($feature fn(w: &Tensor<'_>, x: &[f32], y: &mut [f32]) -> () = gemv::<$simd, $gemv, $half>),
            gemm: entry!($feature fn(w: &Tensor<'_>, x: &[f32], tiles: &[Tile], y: &mut [f32], stride: usize)
                -> () = gemm::<$simd, $gemm, $half>),
            rmsnorm: entry!($feature fn(h: &[f32], g: &[f32], width: usize, eps: f32, out: &mut [f32])
                -> bool = rmsnorm::<$simd>),
            head_norm: entry!($feature fn(head: &mut [f32], gain: &[f32], eps: f32) -> () = head_norm),
            rope: entry!($feature fn(head: &mut [f32], cos: &[f32], sin: &[f32]) -> bool = rope::<$simd>),
            silu_gate: entry!($feature fn(gate: &mut [f32], up: &[f32]) -> bool = silu_gate::<$simd>),
            narrow: entry!($feature fn(x: &[f32], out: &mut [f16]) -> () = narrow::<$simd>),
            attend: entry!($feature fn(job: &Attend<'_>, scratch: &mut Scratch) -> u32 = attend::<$simd, $gemm>),
            #[cfg(test)]
            exp: entry!($feature fn(x: &mut [f32]) -> () = exp_all::<$simd>),
        };
    };
}

table!(PORTABLE, Lanes, 2, 1, 4, []);
#[cfg(target_arch = "x86_64")]
table!(AVX2, super::simd::Avx2, 8, 2, 4, ["avx2,fma,f16c"]);
#[cfg(target_arch = "x86_64")]
table!(AVX512, super::simd::Avx512, 4, 4, 2, ["avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"]);
// Of its 32 registers, a tile of 6 tokens takes 24 for sums and 5 for weights and an x.
#[cfg(target_arch = "aarch64")]
table!(NEON, super::simd::Neon, 8, 2, 4, ["neon"]);

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::*;

    #[test]
    fn exp_equals_the_definition() {
        let x: Vec<f32> = (0..64 * 4000).map(|i| -100.0 + i as f32 * 0.000_8).chain([0.0; 64]).collect();
        for isa in Isa::available() {
            let mut y = x.clone();
            (isa.kernels().exp)(&mut y);
            for (x, y) in x.iter().zip(y) {
                assert_eq!(y.to_bits(), ops::exp(*x).to_bits(), "{isa:?} exp({x})");
            }
        }
    }

    #[test]
    fn every_half_widens_and_narrows_alike() {
        let finite: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|x| x.is_finite()).collect();
        // each half, and a value in the middle between it and the next
        let x: Vec<f32> =
            finite.iter().flat_map(|h| [h.to_f32(), h.to_f32() * (1.0 + 1.0 / 2048.0)]).collect();
        for isa in Isa::available() {
            let mut y = vec![f16::ZERO; x.len()];
            (isa.kernels().narrow)(&x, &mut y);
            assert!(
                x.iter().zip(&y).all(|(x, y)| f16::from_f32_const(*x).to_bits() == y.to_bits()),
                "{isa:?}"
            );
            // one panel of one column times 1 is the panel, except that -0 becomes +0
            let mut wide = vec![0.0; finite.len() / 64 * 64];
            let panels = &finite[..wide.len()];
            let matrix = Tensor { rows: wide.len(), cols: 1, packing: None, panels };
            (isa.kernels().gemv)(&matrix, &[1.0], &mut wide);
            let same = |(h, w): (&f16, &f32)| (h.to_f32() + 0.0).to_bits() == w.to_bits();
            assert!(finite.iter().zip(&wide).all(same), "{isa:?}");
        }
    }

    #[test]
    fn a_store_that_is_not_finite_is_zero_and_told() {
        for isa in Isa::available() {
            let mut gate = vec![2.0; 64];
            let mut up = vec![1.0; 64];
            assert!((isa.kernels().silu_gate)(&mut gate, &up));
            (gate[37], up[37]) = (60_000.0, -60_000.0);
            assert!(!(isa.kernels().silu_gate)(&mut gate, &up));
            assert_eq!(gate[37].to_bits(), 0);
            let mut head = vec![60_000.0; 8];
            assert!(!(isa.kernels().rope)(&mut head, &[0.8; 4], &[-0.6; 4]), "{isa:?}");
        }
    }
}
