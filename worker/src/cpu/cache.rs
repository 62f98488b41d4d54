//! Memory for keys and values in pages, laid out as panels, so that scores and weighted values are the GEMM's own
//! kernel.

use half::f16;
use memmap2::{MmapMut, MmapRaw};

use crate::canon::tensor::PANEL;
use crate::canon::{Architecture, PAGE};

/// Keys and values of every layer and key head, page by page. Memory is the operating system's until a page is written.
pub struct KvCache {
    heads: usize,
    /// Halves of one head in one layer of one page.
    part: usize,
    /// Halves of a page.
    page: usize,
    pages: usize,
    layout: Layout,
    /// `[page][layer][head]`, each as in [`Layout`].
    memory: MmapRaw,
}

/// Keys and values of one head for the positions of a page: `[position / 64][dim][64]`, then `[dim / 64][position][64]`.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Elements of a head.
    pub dim: usize,
}

impl Layout {
    /// Where the keys of panel `panel` begin, 64 positions each.
    pub fn keys(self, panel: usize) -> usize {
        panel * self.dim * PANEL
    }

    /// Where the values of panel `panel` begin, 64 elements each.
    pub fn values(self, panel: usize) -> usize {
        PAGE * self.dim + panel * PAGE * PANEL
    }

    /// Halves of all of it.
    pub fn len(self) -> usize {
        self.values(self.dim.div_ceil(PANEL))
    }
}

impl KvCache {
    /// Bytes that a page takes.
    pub fn page_bytes(arch: &Architecture) -> usize {
        let layout = Layout { dim: arch.head_dim as usize };
        arch.layers as usize * arch.kv_heads as usize * layout.len() * size_of::<f16>()
    }

    pub fn new(arch: &Architecture, pages: usize) -> std::io::Result<Self> {
        Self::sized(arch.layers as usize, arch.kv_heads as usize, arch.head_dim as usize, pages)
    }

    /// One of so many layers and key heads of `dim` elements.
    pub fn sized(layers: usize, heads: usize, dim: usize, pages: usize) -> std::io::Result<Self> {
        let layout = Layout { dim };
        let part = layout.len();
        let page = layers * heads * part;
        let map = MmapMut::map_anon(page * pages.max(1) * size_of::<f16>())?;
        // Fewer and larger translations where the system has them; nothing depends on it.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { heads, part, page, pages, layout, memory: map.into() })
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    fn at(&self, page: u32, layer: usize, head: usize) -> *mut f16 {
        let start = (layer * self.heads + head) * self.part;
        assert!((page as usize) < self.pages && head < self.heads && start + self.part <= self.page);
        self.memory.as_mut_ptr().cast::<f16>().wrapping_add(page as usize * self.page + start)
    }

    /// Keys and values of one head on one page.
    ///
    /// # Safety
    /// Nobody writes to it while the slice lives.
    pub unsafe fn part(&self, page: u32, layer: usize, head: usize) -> &[f16] {
        // SAFETY: the part lies within the map, whose bytes are all halves; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.at(page, layer, head), self.part) }
    }

    /// Stores one head's key and value at place `slot` of a page.
    ///
    /// # Safety
    /// No other thread reads this head on this page, or writes this place of it, meanwhile.
    pub unsafe fn put(&self, page: u32, slot: usize, layer: usize, head: usize, key: &[f16], value: &[f16]) {
        assert!(slot < PAGE && key.len() == self.layout.dim && value.len() == self.layout.dim);
        let part = self.at(page, layer, head);
        // SAFETY: the place lies within the part; the caller keeps other threads off these elements.
        unsafe {
            let to = part.add(self.layout.keys(slot / PANEL) + slot % PANEL);
            for (d, x) in key.iter().enumerate() {
                *to.add(d * PANEL) = *x;
            }
            for (panel, x) in value.chunks(PANEL).enumerate() {
                let to = part.add(self.layout.values(panel) + slot * PANEL);
                std::ptr::copy_nonoverlapping(x.as_ptr(), to, x.len());
            }
        }
    }

    /// Copies a page.
    ///
    /// # Safety
    /// Nobody reads or writes `to`, or writes `from`, meanwhile.
    pub unsafe fn copy(&self, from: u32, to: u32) {
        if from != to {
            // SAFETY: both pages lie within the map, apart from each other; the caller keeps others away.
            unsafe { std::ptr::copy_nonoverlapping(self.at(from, 0, 0), self.at(to, 0, 0), self.page) };
        }
    }
}
