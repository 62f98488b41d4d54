//! Keys and values of a sequence, laid out as panels, so that scores and weighted values are the GEMM's own kernel.

use half::f16;
use memmap2::{MmapMut, MmapRaw};

use crate::canon::tensor::PANEL;
use crate::canon::Architecture;

/// Keys and values of every layer and key head. Memory is the operating system's until a position is written.
pub struct KvCache {
    /// Positions, a multiple of 64.
    pub capacity: usize,
    /// Elements of a head.
    pub dim: usize,
    heads: usize,
    /// `[layer][head][position / 64][dim][64]`.
    keys: MmapRaw,
    /// `[layer][head][dim / 64][position][64]`.
    values: MmapRaw,
}

impl KvCache {
    pub fn new(arch: &Architecture, capacity: usize) -> std::io::Result<Self> {
        let capacity = capacity.next_multiple_of(PANEL).max(PANEL);
        let (heads, dim) = (arch.kv_heads as usize, arch.head_dim as usize);
        let map = |dim: usize| -> std::io::Result<MmapRaw> {
            let bytes = arch.layers as usize * heads * capacity * dim * size_of::<f16>();
            Ok(MmapMut::map_anon(bytes)?.into())
        };
        Ok(Self { capacity, dim, heads, keys: map(dim)?, values: map(dim.next_multiple_of(PANEL))? })
    }

    /// The part of `map` that one head of one layer has, `dim` halves a position.
    fn part(&self, map: &MmapRaw, layer: usize, head: usize, dim: usize) -> *mut [f16] {
        let len = self.capacity * dim;
        let start = (layer * self.heads + head) * len;
        assert!(head < self.heads && (start + len) * size_of::<f16>() <= map.len());
        std::ptr::slice_from_raw_parts_mut(map.as_mut_ptr().cast::<f16>().wrapping_add(start), len)
    }

    fn keys_part(&self, layer: usize, head: usize) -> *mut [f16] {
        self.part(&self.keys, layer, head, self.dim)
    }

    fn values_part(&self, layer: usize, head: usize) -> *mut [f16] {
        self.part(&self.values, layer, head, self.dim.next_multiple_of(PANEL))
    }

    /// Keys of one head: 64 positions a panel, `dim` columns.
    ///
    /// # Safety
    /// Nobody writes positions of this layer meanwhile.
    pub unsafe fn keys(&self, layer: usize, head: usize) -> &[f16] {
        // SAFETY: the part lies within the map, whose bytes are all halves; the caller keeps writers away.
        unsafe { &*self.keys_part(layer, head) }
    }

    /// Values of one head: 64 elements a panel, `capacity` columns.
    ///
    /// # Safety
    /// Nobody writes positions of this layer meanwhile.
    pub unsafe fn values(&self, layer: usize, head: usize) -> &[f16] {
        // SAFETY: the part lies within the map, whose bytes are all halves; the caller keeps writers away.
        unsafe { &*self.values_part(layer, head) }
    }

    /// Stores one head's key and value of one position.
    ///
    /// # Safety
    /// No other thread reads this layer or writes this position meanwhile.
    pub unsafe fn put(&self, layer: usize, head: usize, position: usize, key: &[f16], value: &[f16]) {
        assert!(position < self.capacity && key.len() == self.dim && value.len() == self.dim);
        let keys = self.keys_part(layer, head).cast::<f16>();
        let values = self.values_part(layer, head).cast::<f16>();
        // SAFETY: the position lies within both parts; the caller keeps other threads off these elements.
        unsafe {
            let to = keys.add(position / PANEL * self.dim * PANEL + position % PANEL);
            for (d, x) in key.iter().enumerate() {
                *to.add(d * PANEL) = *x;
            }
            for (panel, x) in value.chunks(PANEL).enumerate() {
                let to = values.add((panel * self.capacity + position) * PANEL);
                std::ptr::copy_nonoverlapping(x.as_ptr(), to, x.len());
            }
        }
    }
}
