//! Weights that stay quantised in memory: the kernels turn them into the very halves that the format's formula rounds
//! to, so that decoding moves fewer bytes and no bit changes.
//!
//! A panel of 64 rows is two of 32, each of which has, for every 32 columns, one block: the scales d of the rows, the
//! minima m of the rows (Q4_1 only), and the codes. Codes of 4 bits: for every 8 columns a dword a row, columns ascending
//! from the low bits up; of 8 bits: a byte a row for every column. Rows of padding are zero.
//!
//! x = d q + m (m = 0 but for Q4_1) is rounded to the nearest half without a conversion: RN(8193 x) - 8192 x is x with 11
//! significant bits. d and m are halves, so 8192 and 8193 times them are exact in f32. Where that is not the half that the
//! rule gives, as beyond 1, [`put_group`] says so and the tensor is not packed.

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use super::tensor::PANEL;

/// Rows of half a panel.
pub const HALF_PANEL: usize = PANEL / 2;

/// Columns of a block.
pub const GROUP: usize = 32;

/// A quantised format that has kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// d (q - 8), 4 bits.
    Q4_0,
    /// d q + m, 4 bits.
    Q4_1,
    /// d q, 8 bits, signed.
    Q8_0,
}

impl Packing {
    pub const ALL: [Self; 3] = [Self::Q4_0, Self::Q4_1, Self::Q8_0];

    /// Halves (of two bytes) that a block of 32 rows takes.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q4_0 => HALF_PANEL * (1 + GROUP / 4),
            Self::Q4_1 => HALF_PANEL * (2 + GROUP / 4),
            Self::Q8_0 => HALF_PANEL * (1 + GROUP / 2),
        }
    }

    /// Halves that `rows` x `cols` take; none where the format cannot hold so many columns.
    pub fn padded_len(self, rows: usize, cols: usize) -> Option<usize> {
        let blocks = rows.div_ceil(PANEL) * 2 * (cols / GROUP);
        cols.is_multiple_of(GROUP).then_some(blocks * self.block_len())
    }

    /// Bytes before the codes of a block.
    pub(crate) const fn codes(self) -> usize {
        match self {
            Self::Q4_1 => 4 * HALF_PANEL,
            _ => 2 * HALF_PANEL,
        }
    }
}

/// 32 columns of a row.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub d: f16,
    /// Zero but for Q4_1.
    pub m: f16,
    /// The numbers that d is multiplied by.
    pub q: [i8; GROUP],
}

/// Where a group of a row lies: the byte at which its block begins, and its row of the block.
fn place(packing: Packing, cols: usize, row: usize, group: usize) -> (usize, usize) {
    let block = row / HALF_PANEL * (cols / GROUP) + group;
    (2 * block * packing.block_len(), row % HALF_PANEL)
}

/// Where in its block the code of column `k` of a row lies, and by how much it is shifted.
fn code_place(packing: Packing, row: usize, k: usize) -> (usize, usize) {
    match packing {
        Packing::Q8_0 => (packing.codes() + k * HALF_PANEL + row, 0),
        _ => (packing.codes() + (k / 8 * HALF_PANEL + row) * 4 + k % 8 / 2, k % 2 * 4),
    }
}

/// Writes a group of a row into panels that are zero there. Answers whether the kernels make exactly `values` of it; if
/// not, the tensor must stay in halves.
pub fn put_group(
    packing: Packing,
    panels: &mut [u8],
    cols: usize,
    row: usize,
    group: usize,
    content: &Group,
    values: &[f16],
) -> bool {
    let (block, row) = place(packing, cols, row, group);
    let Group { d, m, q } = content;
    panels[block + 2 * row..][..2].copy_from_slice(&d.to_le_bytes());
    if packing == Packing::Q4_1 {
        panels[block + 2 * (HALF_PANEL + row)..][..2].copy_from_slice(&m.to_le_bytes());
    }
    let bits = if packing == Packing::Q8_0 { 0xff } else { 0x0f };
    for (k, q) in q.iter().enumerate() {
        let (byte, shift) = code_place(packing, row, k);
        panels[block + byte] |= (*q as u8 & bits) << shift;
    }
    is_exact(content, values)
}

/// Whether the kernels make exactly `values` of a group.
pub fn is_exact(content: &Group, values: &[f16]) -> bool {
    let Group { d, m, q } = content;
    let (d, m) = (d.to_f32(), m.to_f32());
    q.iter().zip(values).all(|(q, value)| {
        let q = f32::from(*q);
        let same = |x: f32| x.to_bits() == value.to_f32().to_bits();
        value.is_finite() && same(expand(d, m, q)) && same(expand_lean(d, m, q))
    })
}

/// Columns `group * 32` on of a row, as many as `out` has, at most 32.
pub fn read_group(packing: Packing, panels: &[u8], cols: usize, row: usize, group: usize, out: &mut [f16]) {
    let mut values = [0.0; GROUP];
    let values = &mut values[..out.len()];
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has it.
        unsafe { expand_group_fused(packing, panels, cols, row, group, values) };
        return out.convert_from_f32_slice(values);
    }
    expand_group(packing, panels, cols, row, group, values);
    out.convert_from_f32_slice(values);
}

/// The same bits: without the instruction a fused multiply-add is a call.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "fma")]
unsafe fn expand_group_fused(
    packing: Packing,
    panels: &[u8],
    cols: usize,
    row: usize,
    group: usize,
    out: &mut [f32],
) {
    expand_group(packing, panels, cols, row, group, out);
}

#[inline(always)]
fn expand_group(packing: Packing, panels: &[u8], cols: usize, row: usize, group: usize, out: &mut [f32]) {
    let (block, row) = place(packing, cols, row, group);
    let half = |at: usize| f16::from_le_bytes([panels[at], panels[at + 1]]).to_f32();
    let d = half(block + 2 * row);
    let m = if packing == Packing::Q4_1 { half(block + 2 * (HALF_PANEL + row)) } else { 0.0 };
    for (k, out) in out.iter_mut().enumerate() {
        let (byte, shift) = code_place(packing, row, k);
        let code = panels[block + byte] >> shift;
        let q = match packing {
            Packing::Q4_0 => (code << 4) as i8 >> 4,
            Packing::Q4_1 => (code & 0x0f) as i8,
            Packing::Q8_0 => code as i8,
        };
        *out = expand(d, m, q.into());
    }
}

/// Element (`row`, `k`).
pub fn element(packing: Packing, panels: &[u8], cols: usize, row: usize, k: usize) -> f16 {
    let mut values = [f16::ZERO; GROUP];
    let last = k % GROUP;
    read_group(packing, panels, cols, row, k / GROUP, &mut values[..=last]);
    values[last]
}

/// What the kernels compute of d, m and a code.
#[inline(always)]
fn expand(d: f32, m: f32, q: f32) -> f32 {
    (8193.0 * d).mul_add(q, 8193.0 * m) - (8192.0 * d).mul_add(q, 8192.0 * m)
}

/// The same from x itself, with fewer registers.
fn expand_lean(d: f32, m: f32, q: f32) -> f32 {
    let x = d.mul_add(q, m);
    x.mul_add(-8192.0, x * 8193.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element comes back, and a group that the kernels would round otherwise is told.
    #[test]
    fn groups_come_back() {
        for packing in Packing::ALL {
            let (rows, cols) = (100, 96);
            let mut panels = vec![0u8; 2 * packing.padded_len(rows, cols).unwrap()];
            let value = |row: usize, k: usize| {
                let (d, m) = (0.001 * (row + 1) as f32, if packing == Packing::Q4_1 { -0.02 } else { 0.0 });
                let q = ((row * 7 + k * 5) % 16) as i8 - if packing == Packing::Q4_1 { 0 } else { 8 };
                let (d, m) = (f16::from_f32(d), f16::from_f32(m));
                (d, m, q, f16::from_f32((d.to_f64() * f64::from(q) + m.to_f64() + 0.0) as f32))
            };
            for (row, group) in (0..rows).flat_map(|row| (0..cols / GROUP).map(move |group| (row, group))) {
                let of = |i: usize| value(row, group * GROUP + i);
                let content = Group { d: of(0).0, m: of(0).1, q: std::array::from_fn(|i| of(i).2) };
                let values: Vec<f16> = (0..GROUP).map(|i| of(i).3).collect();
                assert!(put_group(packing, &mut panels, cols, row, group, &content, &values));
            }
            for (row, k) in (0..rows).flat_map(|row| (0..cols).map(move |k| (row, k))) {
                assert_eq!(element(packing, &panels, cols, row, k).to_bits(), value(row, k).3.to_bits());
            }
            assert_eq!(element(packing, &panels, cols, 127, 95).to_bits(), 0);

            let far = Group { d: f16::from_f32(900.0), m: f16::ZERO, q: [7; GROUP] };
            let values = [f16::from_f32(6300.0); GROUP];
            let mut panels = vec![0u8; 2 * packing.padded_len(64, 32).unwrap()];
            let exact = put_group(packing, &mut panels, 32, 0, 0, &far, &values);
            assert!(exact == (element(packing, &panels, 32, 0, 0) == values[0]));
            assert!(!put_group(packing, &mut panels, 32, 1, 0, &far, &[f16::from_f32(6296.0); GROUP]));
        }
        assert_eq!(Packing::Q4_0.padded_len(64, 33), None);
    }
}
