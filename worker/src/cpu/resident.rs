//! Weights in huge pages: streaming them takes a translation every 2 MiB instead of every 4 KiB, which a mapped file
//! cannot have.

use std::sync::Arc;

use half::f16;
use memmap2::MmapMut;
use rayon::prelude::*;

use crate::canon::tensor::put_row;
use crate::canon::{Architecture, Decoder, Tensor, Weights};

/// A decoder whose weights were copied into memory of this process.
pub struct Resident<M> {
    model: Arc<M>,
    memory: MmapMut,
    /// Whether quantised weights became halves.
    expanded: bool,
}

/// Every tensor begins at a multiple of this many halves: one cache line.
const ALIGNMENT: usize = 32;

/// Halves that are copied at a time.
const PIECE: usize = 4 << 20;

/// What becomes a part of the copy.
enum Piece<'a> {
    Plain(&'a [f16]),
    /// Quantised weights, as halves.
    Expanded(Tensor<'a>),
}

/// Halves that a tensor takes here.
fn len(tensor: &Tensor<'_>, expanded: bool) -> usize {
    match tensor.packing {
        Some(_) if expanded => Tensor::padded_len(tensor.rows, tensor.cols),
        _ => tensor.panels.len(),
    }
}

impl<M: Decoder> Resident<M> {
    /// A copy, if it takes at most half of the memory that is free; `expanded` with all weights as halves.
    pub fn copy(model: &Arc<M>, expanded: bool) -> Option<Self> {
        let mut total = 0;
        let weights = model.weights();
        weights.over(&mut |tensor| {
            total += len(&tensor, expanded).next_multiple_of(ALIGNMENT);
            Tensor { panels: &[], ..tensor }
        });
        let bytes = total * size_of::<f16>();
        if bytes as u64 > free_memory()? / 2 {
            return None;
        }
        let mut memory = MmapMut::map_anon(bytes).ok()?;
        #[cfg(target_os = "linux")]
        memory.advise(memmap2::Advice::HugePage).ok()?;
        let mut rest: &mut [f16] = bytemuck::cast_slice_mut(&mut memory);
        let mut pieces = Vec::new();
        weights.over(&mut |tensor| {
            let len = len(&tensor, expanded);
            let (to, after) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(ALIGNMENT));
            rest = after;
            if tensor.packing.is_some() && expanded {
                pieces.push((to, Piece::Expanded(tensor)));
            } else {
                let from = tensor.panels.chunks(PIECE);
                pieces
                    .extend(to[..len].chunks_mut(PIECE).zip(from).map(|(to, from)| (to, Piece::Plain(from))));
            }
            Tensor { panels: &[], ..tensor }
        });
        // What takes the time is that the system finds and clears the pages: several threads wait less for that.
        pieces.into_par_iter().for_each(|(to, piece)| match piece {
            Piece::Plain(from) => {
                to.copy_from_slice(from);
                // Never twice in memory, however large.
                model.release(from);
            }
            Piece::Expanded(tensor) => {
                let mut row = vec![f16::ZERO; tensor.cols];
                for r in 0..tensor.rows {
                    tensor.row(r, &mut row);
                    put_row(to, tensor.cols, r, &row);
                }
                model.release(tensor.panels);
            }
        });
        Some(Self { model: model.clone(), memory, expanded })
    }
}

impl<M: Decoder> Decoder for Resident<M> {
    fn arch(&self) -> &Architecture {
        self.model.arch()
    }

    fn weights(&self) -> Weights<'_> {
        let mut rest: &[f16] = bytemuck::cast_slice(&self.memory);
        self.model.weights().over(&mut |tensor| {
            let len = len(&tensor, self.expanded);
            let (here, after) = rest.split_at(len.next_multiple_of(ALIGNMENT));
            rest = after;
            let packing = tensor.packing.filter(|_| !self.expanded);
            Tensor { rows: tensor.rows, cols: tensor.cols, packing, panels: &here[..len] }
        })
    }
}

/// Bytes that new allocations may take without swapping; none where the system does not say.
pub fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
