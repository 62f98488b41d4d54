//! Weights in huge pages: streaming them takes a translation every 2 MiB instead of every 4 KiB, which a mapped file
//! cannot have.

use std::sync::Arc;

use half::f16;
use memmap2::MmapMut;

use crate::canon::{Architecture, Decoder, Weights};

/// A decoder whose weights were copied into memory of this process.
pub struct Resident<M> {
    model: Arc<M>,
    memory: MmapMut,
    /// Where in `memory`, in halves, each slice begins, in the order of [`Weights::over`].
    starts: Vec<usize>,
}

/// Every slice begins at a multiple of this many halves: one cache line.
const ALIGNMENT: usize = 32;

impl<M: Decoder> Resident<M> {
    /// A copy, if it takes at most half of the memory that is free.
    pub fn copy(model: &Arc<M>) -> Option<Self> {
        let (mut starts, mut len) = (Vec::new(), 0);
        let weights = model.weights();
        weights.over(&mut |slice| {
            starts.push(len);
            len += slice.len().next_multiple_of(ALIGNMENT);
            &[]
        });
        let bytes = len * size_of::<f16>();
        if bytes as u64 > free_memory()? / 2 {
            return None;
        }
        let mut memory = MmapMut::map_anon(bytes).ok()?;
        #[cfg(target_os = "linux")]
        memory.advise(memmap2::Advice::HugePage).ok()?;
        let halves: &mut [f16] = bytemuck::cast_slice_mut(&mut memory);
        let mut start = starts.iter();
        weights.over(&mut |slice| {
            if let Some(start) = start.next() {
                halves[*start..start + slice.len()].copy_from_slice(slice);
            }
            &[]
        });
        Some(Self { model: model.clone(), memory, starts })
    }
}

impl<M: Decoder> Decoder for Resident<M> {
    fn arch(&self) -> &Architecture {
        self.model.arch()
    }

    fn weights(&self) -> Weights<'_> {
        let halves: &[f16] = bytemuck::cast_slice(&self.memory);
        let mut starts = self.starts.iter();
        self.model.weights().over(&mut |slice| match starts.next() {
            Some(start) => &halves[*start..start + slice.len()],
            None => unreachable!("the model has the slices that were copied"),
        })
    }
}

/// Bytes that new allocations may take without swapping; none where the system does not say.
pub fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
