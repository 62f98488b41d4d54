//! Weights as the kernels read them: groups of 8 rows, in a group chunks of 8 columns, a chunk 8 rows of 8 halves.
//!
//! Chunks are ordered as they are read: the first of every block of 128 columns, then the second of every block, and so
//! on. What is missing of the last group and the last chunk is zero, which changes no sum.

use std::ops::Range;

use half::f16;

use crate::canon::constants::BLOCK;

/// Rows of a group, columns of a chunk.
pub const SIDE: usize = 8;
/// Chunks of a whole block.
const CHUNKS: usize = BLOCK / SIDE;

/// Rounded up to whole groups or chunks.
pub fn padded(n: usize) -> usize {
    n.next_multiple_of(SIDE)
}

/// Halves that a packed matrix takes up.
pub fn packed_len(rows: usize, cols: usize) -> usize {
    padded(rows) * padded(cols)
}

/// Where chunk `chunk` of a row stands among the row's chunks.
fn place(cols: usize, chunk: usize) -> usize {
    let (all, blocks) = (cols.div_ceil(SIDE), cols.div_ceil(BLOCK));
    let last = all - CHUNKS * (blocks - 1);
    let (block, c) = (chunk / CHUNKS, chunk % CHUNKS);
    if c < last {
        c * blocks + block
    } else {
        last * blocks + (c - last) * (blocks - 1) + block
    }
}

/// Packs some groups of a matrix of `rows` x `cols`, whose row `i` is written by `row(i, out)`.
pub fn pack(rows: usize, cols: usize, groups: Range<usize>, row: &dyn Fn(usize, &mut [f16])) -> Vec<f16> {
    let group_len = SIDE * padded(cols);
    let mut out = vec![f16::ZERO; groups.len() * group_len];
    let mut values = vec![f16::ZERO; cols];
    for (group, out) in groups.zip(out.chunks_exact_mut(group_len)) {
        for i in (group * SIDE..rows).take(SIDE) {
            row(i, &mut values);
            for (chunk, halves) in values.chunks(SIDE).enumerate() {
                let at = (place(cols, chunk) * SIDE + i % SIDE) * SIDE;
                out[at..at + halves.len()].copy_from_slice(halves);
            }
        }
    }
    out
}

/// Where row `i` of the packed query, key and value projections comes from, in their own order: a head's rows are
/// element 0, element dim / 2, element 1, and so on, so that a pair that turns together lies together.
pub fn paired(i: usize, dim: usize) -> usize {
    let (head, r) = (i / dim, i % dim);
    head * dim + r / 2 + r % 2 * (dim / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element is at the place that the layout gives it, and nothing else is there.
    #[test]
    fn each_element_has_one_place() {
        for (rows, cols) in [(1, 1), (9, 8), (16, 129), (17, 200), (8, 256), (3, 330)] {
            let value = |i: usize, k: usize| f16::from_bits((i * cols + k + 1) as u16);
            let packed = pack(rows, cols, 0..rows.div_ceil(SIDE), &|i, out| {
                out.iter_mut().enumerate().for_each(|(k, x)| *x = value(i, k));
            });
            assert_eq!(packed.len(), packed_len(rows, cols));
            let mut seen = vec![false; packed.len()];
            for i in 0..rows {
                for k in 0..cols {
                    let at = ((i / 8 * cols.div_ceil(8) + place(cols, k / 8)) * 8 + i % 8) * 8 + k % 8;
                    assert_eq!(packed[at], value(i, k), "({i}, {k}) of {rows} x {cols}");
                    assert!(!std::mem::replace(&mut seen[at], true));
                }
            }
            assert!(packed.iter().zip(&seen).all(|(x, seen)| *seen || *x == f16::ZERO));
        }
        // what a warp reads at once lies together: chunk 0 of blocks 0, 1, 2
        assert_eq!([0, 16, 32, 1].map(|chunk| place(330, chunk)), [0, 1, 2, 3]);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|i| paired(i + 6, 6)), [6, 9, 7, 10, 8, 11]);
    }
}
