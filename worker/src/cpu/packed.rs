//! Products with weights that stay quantised in memory (`canon::packed`): they become halves in registers, or for many
//! tokens in a tile that the GEMM then reads as it reads others.

use half::f16;

use super::simd::Simd;
use crate::canon::constants::BLOCK;
use crate::canon::packed::{Packing, GROUP, HALF_PANEL};
use crate::canon::tensor::PANEL;
use crate::canon::Tensor;

/// A block of columns of a panel, as halves.
#[repr(align(64))]
pub struct PanelTile(pub [f16; BLOCK * PANEL]);

impl PanelTile {
    pub const ZERO: Self = Self([f16::ZERO; BLOCK * PANEL]);
}

/// Takes the weights of a block. Not a closure: those are compiled without the instruction set, and so large a one is not
/// inlined to where it is.
trait Sink<S> {
    /// # Safety
    /// The wrapper has the instruction set of S, and what the implementation points to has column `k` and vector `j`.
    unsafe fn take(&mut self, k: usize, j: usize, w: S);
}

/// Sums of products with the columns of `x`.
struct Sums<'a, S, const N: usize> {
    x: &'a [f32],
    acc: [S; N],
}

impl<S: Simd, const N: usize> Sink<S> for Sums<'_, S, N> {
    #[inline(always)]
    unsafe fn take(&mut self, k: usize, j: usize, w: S) {
        // SAFETY: the caller's contract.
        unsafe { self.acc[j] = S::fma_exact(S::splat(*self.x.get_unchecked(k)), w, self.acc[j]) };
    }
}

/// Halves in a tile, from the first column and row on.
struct Columns(*mut f16);

impl<S: Simd> Sink<S> for Columns {
    #[inline(always)]
    unsafe fn take(&mut self, k: usize, j: usize, w: S) {
        // SAFETY: the caller's contract.
        unsafe { w.store_half(self.0.add(k * PANEL + j * S::LANES)) };
    }
}

/// Scales and minima of N vectors of rows, times what `weight` wants them.
#[derive(Clone, Copy)]
struct Scales<S, const N: usize> {
    d: [S; N],
    d_down: [S; N],
    m: [S; N],
    m_down: [S; N],
}

/// With few registers it is better to round x than to keep multiples of d and m.
#[inline(always)]
const fn is_lean<S: Simd>(packing: Packing) -> bool {
    matches!(packing, Packing::Q4_1) && S::LANES < 16
}

impl<S: Simd, const N: usize> Scales<S, N> {
    /// # Safety
    /// `block` is one of `packing`; the wrapper has the instruction set of S.
    #[inline(always)]
    unsafe fn load(packing: Packing, block: *const u8) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            let (up, down) = (S::splat(8193.0), S::splat(-8192.0));
            let mut all = Self { d: [up; N], d_down: [up; N], m: [up; N], m_down: [up; N] };
            for j in 0..N {
                let scale = block.cast::<f16>().add(j * S::LANES);
                let d = S::load_half(scale);
                let lean = is_lean::<S>(packing);
                (all.d[j], all.d_down[j]) = if lean { (d, d) } else { (d.mul(up), d.mul(down)) };
                if packing == Packing::Q4_1 {
                    let m = S::load_half(scale.add(HALF_PANEL));
                    (all.m[j], all.m_down[j]) = if lean { (m, m) } else { (m.mul(up), m.mul(down)) };
                }
            }
            all
        }
    }

    /// The halves of vector `j` for codes `q`.
    ///
    /// # Safety
    /// The wrapper has the instruction set of S.
    #[inline(always)]
    unsafe fn weight(&self, packing: Packing, j: usize, q: S) -> S {
        // SAFETY: the caller's contract.
        unsafe {
            if is_lean::<S>(packing) {
                let x = S::fma_exact(self.d[j], q, self.m[j]);
                S::fma_exact(x, S::splat(-8192.0), x.mul(S::splat(8193.0)))
            } else if packing == Packing::Q4_1 {
                S::fma(self.d[j], q, self.m[j]).add(S::fma(self.d_down[j], q, self.m_down[j]))
            } else {
                S::fma_exact(self.d_down[j], q, self.d[j].mul(q))
            }
        }
    }
}

/// Gives `sink` the weights of the 32 columns of a block, ascending, for all 32 rows in N vectors.
///
/// # Safety
/// `block` is one of `packing`, and the sink takes 32 columns of N vectors; the wrapper has the instruction set of S.
#[inline(always)]
unsafe fn expand<S: Simd, const N: usize>(packing: Packing, block: *const u8, sink: &mut impl Sink<S>) {
    // SAFETY: the caller's contract covers every address.
    unsafe {
        let scales = Scales::<S, N>::load(packing, block);
        let codes = block.add(packing.codes());
        if packing == Packing::Q8_0 {
            for k in 0..GROUP {
                for j in 0..N {
                    let q = S::load_bytes(codes.add(k * HALF_PANEL + j * S::LANES));
                    sink.take(k, j, scales.weight(packing, j, q));
                }
            }
            return;
        }
        for eight in 0..GROUP / 8 {
            let codes = codes.add(eight * HALF_PANEL * 4);
            let mut dwords = [S::load_dwords(codes); N];
            #[allow(clippy::needless_range_loop)] // an iterator's calls are not always inlined here
            for j in 1..N {
                dwords[j] = S::load_dwords(codes.add(j * S::LANES * 4));
            }
            // Spelled out: the compiler does not always unroll so large a body, and shifts by what is not a constant
            // took twice the time.
            column::<S, N, 0>(packing, &scales, &dwords, eight, sink);
            column::<S, N, 1>(packing, &scales, &dwords, eight, sink);
            column::<S, N, 2>(packing, &scales, &dwords, eight, sink);
            column::<S, N, 3>(packing, &scales, &dwords, eight, sink);
            column::<S, N, 4>(packing, &scales, &dwords, eight, sink);
            column::<S, N, 5>(packing, &scales, &dwords, eight, sink);
            column::<S, N, 6>(packing, &scales, &dwords, eight, sink);
            column::<S, N, 7>(packing, &scales, &dwords, eight, sink);
        }
    }
}

/// Gives `sink` column I of eight, whose codes are the I-th four bits of each dword.
///
/// # Safety
/// As [`expand`].
#[inline(always)]
unsafe fn column<S: Simd, const N: usize, const I: usize>(
    packing: Packing,
    scales: &Scales<S, N>,
    dwords: &[S::Dwords; N],
    eight: usize,
    sink: &mut impl Sink<S>,
) {
    #[allow(clippy::needless_range_loop)] // as above
    for j in 0..N {
        // SAFETY: the caller's contract.
        unsafe {
            let q = S::nibble(dwords[j], I, matches!(packing, Packing::Q4_0));
            sink.take(eight * 8 + I, j, scales.weight(packing, j, q));
        }
    }
}

/// y = w x; N vectors are half a panel.
///
/// # Safety
/// The wrapper has the instruction set of S.
#[inline(always)]
pub unsafe fn gemv<S: Simd, const N: usize>(packing: Packing, w: &Tensor<'_>, x: &[f32], y: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe {
        match packing {
            Packing::Q4_0 => gemv_of::<S, N>(Packing::Q4_0, w, x, y),
            Packing::Q4_1 => gemv_of::<S, N>(Packing::Q4_1, w, x, y),
            Packing::Q8_0 => gemv_of::<S, N>(Packing::Q8_0, w, x, y),
        }
    }
}

#[inline(always)]
unsafe fn gemv_of<S: Simd, const N: usize>(packing: Packing, w: &Tensor<'_>, x: &[f32], y: &mut [f32]) {
    let half_len = w.panel_len() / 2;
    assert!(N * S::LANES == HALF_PANEL && x.len() == w.cols && w.cols.is_multiple_of(GROUP));
    assert!(y.len().is_multiple_of(PANEL) && w.panels.len() == y.len() / HALF_PANEL * half_len);
    for (half, y) in w.panels.chunks_exact(half_len).zip(y.chunks_exact_mut(HALF_PANEL)) {
        let mut block = half.as_ptr().cast::<u8>();
        for (b, x) in x.chunks(BLOCK).enumerate() {
            // SAFETY: half a panel has a block for each 32 columns, x so many elements, and y 32.
            unsafe {
                let mut acc = [S::splat(0.0); N];
                for x in x.chunks_exact(GROUP) {
                    let mut sums = Sums { x, acc };
                    expand::<S, N>(packing, block, &mut sums);
                    acc = sums.acc;
                    block = block.add(2 * packing.block_len());
                }
                for (j, acc) in acc.into_iter().enumerate() {
                    let y = y.as_mut_ptr().add(j * S::LANES);
                    if b == 0 { acc } else { S::load(y).add(acc) }.store(y);
                }
            }
        }
    }
}

/// The columns from `k0` on of a panel, `len` of them, as halves.
///
/// # Safety
/// The wrapper has the instruction set of S.
#[inline(always)]
pub unsafe fn expand_tile<S: Simd, const N: usize>(
    packing: Packing,
    panel: &[f16],
    cols: usize,
    k0: usize,
    len: usize,
    tile: &mut PanelTile,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match packing {
            Packing::Q4_0 => expand_tile_of::<S, N>(Packing::Q4_0, panel, cols, k0, len, tile),
            Packing::Q4_1 => expand_tile_of::<S, N>(Packing::Q4_1, panel, cols, k0, len, tile),
            Packing::Q8_0 => expand_tile_of::<S, N>(Packing::Q8_0, panel, cols, k0, len, tile),
        }
    }
}

#[inline(always)]
unsafe fn expand_tile_of<S: Simd, const N: usize>(
    packing: Packing,
    panel: &[f16],
    cols: usize,
    k0: usize,
    len: usize,
    tile: &mut PanelTile,
) {
    let half_len = cols / GROUP * packing.block_len();
    assert!(N * S::LANES == HALF_PANEL && panel.len() == 2 * half_len && len <= BLOCK && k0 + len <= cols);
    assert!(k0.is_multiple_of(GROUP) && len.is_multiple_of(GROUP));
    for (half, panel) in panel.chunks_exact(half_len).enumerate() {
        for group in 0..len / GROUP {
            // SAFETY: half a panel has a block for each 32 columns; the tile has `len` columns of 64 rows.
            unsafe {
                let block = panel.as_ptr().add((k0 / GROUP + group) * packing.block_len());
                let to = tile.0.as_mut_ptr().add(group * GROUP * PANEL + half * HALF_PANEL);
                expand::<S, N>(packing, block.cast(), &mut Columns(to));
            }
        }
    }
}
