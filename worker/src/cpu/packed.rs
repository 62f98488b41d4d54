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

/// Calls `f` with the column, the vector's number and the weights for the 32 columns of a block, ascending, and the N
/// vectors of rows from `lane` on.
///
/// # Safety
/// `block` is one of `packing`, of which rows `lane` to `lane + N * LANES - 1` exist.
#[inline(always)]
unsafe fn expand<S: Simd, const N: usize>(
    packing: Packing,
    block: *const u8,
    lane: usize,
    mut f: impl FnMut(usize, usize, S),
) {
    // SAFETY: the caller's contract covers every address; its wrapper has the instruction set of S.
    unsafe {
        let minima = packing == Packing::Q4_1;
        // With few registers it is better to round x than to keep multiples of d and m.
        let lean = minima && S::LANES < 16;
        let (up, down) = (S::splat(8193.0), S::splat(-8192.0));
        let (mut d, mut d_down, mut m, mut m_down) = ([up; N], [up; N], [up; N], [up; N]);
        for j in 0..N {
            let scale = block.cast::<f16>().add(lane + j * S::LANES);
            d[j] = S::load_half(scale);
            if minima {
                m[j] = S::load_half(scale.add(HALF_PANEL));
            }
            if !lean {
                (d[j], d_down[j]) = (d[j].mul(up), d[j].mul(down));
                (m[j], m_down[j]) = (m[j].mul(up), m[j].mul(down));
            }
        }
        let weight = |j: usize, q: S| {
            if lean {
                let x = S::fma(d[j], q, m[j]);
                S::fma(x, down, x.mul(up))
            } else if minima {
                S::fma(d[j], q, m[j]).add(S::fma(d_down[j], q, m_down[j]))
            } else {
                S::fma(d_down[j], q, d[j].mul(q))
            }
        };
        let codes = block.add(packing.codes());
        if packing == Packing::Q8_0 {
            for k in 0..GROUP {
                for j in 0..N {
                    f(k, j, weight(j, S::load_bytes(codes.add(k * HALF_PANEL + lane + j * S::LANES))));
                }
            }
        } else {
            for eight in 0..GROUP / 8 {
                let dwords: [S::Dwords; N] = std::array::from_fn(|j| {
                    S::load_dwords(codes.add((eight * HALF_PANEL + lane + j * S::LANES) * 4))
                });
                for i in 0..8 {
                    for (j, dwords) in dwords.iter().enumerate() {
                        f(eight * 8 + i, j, weight(j, S::nibble(*dwords, i, packing == Packing::Q4_0)));
                    }
                }
            }
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
                    expand::<S, N>(packing, block, 0, |k, j, w| {
                        acc[j] = S::fma_exact(S::splat(*x.get_unchecked(k)), w, acc[j]);
                    });
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
                expand::<S, N>(packing, block.cast(), 0, |k, j, w| {
                    w.store_half(to.add(k * PANEL + j * S::LANES));
                });
            }
        }
    }
}
