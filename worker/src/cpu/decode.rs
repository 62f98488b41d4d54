//! A few positions, of one sequence or of several: a thread owns rows of every matrix, so that each weight is read from
//! memory once and in sequence, whatever the number of positions. What all threads need is shared, with a barrier
//! between writing and reading it.

use std::cell::UnsafeCell;
use std::ops::Range;

use half::f16;

use super::kernels::{pack, Kernels, Tile};
use super::prefill::tiles;
use super::{panel_count, HeadScratch, Lane, Pass, Point, Pool, Row, Worker};
use crate::canon::tensor::PANEL;
use crate::canon::Tensor;

/// Vectors, one a row, that threads write parts of and read.
#[derive(Default)]
struct SharedRows {
    stride: usize,
    cells: Vec<UnsafeCell<f32>>,
}

// SAFETY: access goes through the two unsafe methods, whose callers keep threads apart.
unsafe impl Sync for SharedRows {}

impl SharedRows {
    /// Makes room for `rows` rows of `stride` elements; what they hold is not known.
    fn shape(&mut self, rows: usize, stride: usize) {
        self.stride = stride;
        self.cells.resize_with(rows * stride, UnsafeCell::default);
    }

    fn place(&self, row: usize, range: Range<usize>) -> &[UnsafeCell<f32>] {
        assert!(range.end <= self.stride);
        &self.cells[row * self.stride + range.start..row * self.stride + range.end]
    }

    /// # Safety
    /// Nobody writes any of the range of the row meanwhile.
    unsafe fn read(&self, row: usize, range: Range<usize>) -> &[f32] {
        let cells = self.place(row, range);
        // SAFETY: a cell has the layout of its content; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// All rows.
    ///
    /// # Safety
    /// Nobody writes any of it meanwhile.
    unsafe fn read_all(&self) -> &[f32] {
        // SAFETY: a cell has the layout of its content; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.cells.as_ptr().cast(), self.cells.len()) }
    }

    /// # Safety
    /// Nobody else reads or writes any of the range of the row meanwhile.
    #[allow(clippy::mut_from_ref)]
    unsafe fn write(&self, row: usize, range: Range<usize>) -> &mut [f32] {
        let cells = self.place(row, range);
        // SAFETY: a cell has the layout of its content; the caller keeps others away.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }
}

/// What the threads share of all rows.
#[derive(Default)]
pub struct Shared {
    h: SharedRows,
    x: SharedRows,
    qkv: SharedRows,
    attn: SharedRows,
    act: SharedRows,
}

/// The rows of weights that panels hold.
fn rows(panels: &Range<usize>) -> Range<usize> {
    panels.start * PANEL..panels.end * PANEL
}

/// Activations as the products read them: of one row as they are, of several packed.
struct Activations<'a> {
    x: &'a [f32],
    tiles: &'a [Tile],
}

impl<'a> Activations<'a> {
    /// Of `tiles`' rows of `x`, `cols` elements each.
    fn new(x: &'a [f32], stride: usize, cols: usize, tiles: &'a [Tile], packed: &'a mut Vec<f32>) -> Self {
        if let [Tile { start: 0, count: 1 }] = tiles {
            return Self { x: &x[..cols], tiles };
        }
        let count: usize = tiles.iter().map(|tile| tile.count).sum();
        packed.resize(count * cols, 0.0);
        pack(x, stride, cols, tiles, packed);
        Self { x: packed, tiles }
    }

    /// The given panels of `w` times each row, one after the other in `y`.
    fn times(&self, k: &Kernels, w: &Tensor<'_>, range: &Range<usize>, y: &mut Vec<f32>) {
        let (count, len) = (self.tiles.iter().map(|tile| tile.count).sum::<usize>(), rows(range).len());
        y.resize(count * len, 0.0);
        if len == 0 {
            return;
        }
        let w = w.panels(range.clone());
        match count {
            1 => (k.gemv)(&w, self.x, y),
            _ => (k.gemm)(&w, self.x, self.tiles, y, len),
        }
    }
}

impl Pass<'_> {
    /// Computes `chunk` with as many threads as lanes.
    pub(super) fn decode<'l>(
        &self,
        pool: &mut Pool,
        lanes: &'l mut [Lane],
        shared: &mut Shared,
        chunk: &[Row],
    ) -> &'l mut [Lane] {
        let s = &self.shape;
        let Shared { h, x, qkv, attn, act } = shared;
        for (rows, stride) in [(h, s.width), (x, s.width), (qkv, s.qkv), (attn, s.attn), (act, s.ffn)] {
            rows.shape(chunk.len(), stride);
        }
        let shared = &*shared;
        pool.each(lanes, |worker, lane| {
            lane.rows.clear();
            lane.rows.extend(chunk);
            lane.finite.clear();
            lane.finite.resize(chunk.len(), true);
            lane.tiles.clear();
            lane.tiles.extend(tiles(chunk.len(), 1));
            lane.tap.clear();
            lane.x_final.clear();
            self.decode_lane(worker, lane, shared);
        });
        lanes
    }

    /// All layers for this thread's rows of the weights.
    fn decode_lane(&self, worker: Worker<'_>, lane: &mut Lane, shared: &Shared) {
        let (k, s) = (self.kernels, &self.shape);
        let Lane { tiles, rows: chunk, finite, x, packed, gate, up, y, tap, x_final, heads, .. } = lane;
        let width = worker.share(s.width / PANEL);
        let ffn = worker.share(s.ffn / PANEL);
        for (i, row) in chunk.iter().enumerate().skip(worker.index).step_by(worker.of) {
            // SAFETY: a row is one thread's until the barrier.
            self.embed(row.token, unsafe { shared.h.write(i, 0..s.width) });
        }
        worker.barrier();
        for (layer, w) in self.weights.layers.iter().enumerate() {
            let gains = &self.gains.layers[layer];
            // SAFETY: h is complete, and nobody writes it before the barrier after attention.
            let x1 = unsafe { self.norm(worker, shared, &gains.attn, x, finite) };
            let x1 = Activations::new(x1, s.width, w.q.cols, tiles, packed);
            self.qkv_share(worker, layer, &x1, shared, y);
            worker.barrier();
            for (item, (head, run)) in items(chunk, s.kv_heads).enumerate() {
                if item % worker.of == worker.index {
                    let finite = &mut finite[run.clone()];
                    // SAFETY: qkv is complete and nobody writes it before the next layer; of attn and of the run's
                    // pages a thread alone has this key head and its queries from here to the barrier.
                    unsafe { self.decode_head(layer, head, chunk, run, shared, finite, heads) };
                }
            }
            worker.barrier();
            // SAFETY: attn is complete, and nobody writes it before the next layer.
            let attn = unsafe { shared.attn.read_all() };
            Activations::new(attn, s.attn, w.o.cols, tiles, packed).times(k, &w.o, &width, y);
            // SAFETY: nobody reads h before the barrier, and these rows are this thread's.
            unsafe { add(&shared.h, &width, y) };
            worker.barrier();
            // SAFETY: h is complete, and nobody writes it before the next barrier.
            let x2 = unsafe { self.norm(worker, shared, &gains.ffn, x, finite) };
            let x2 = Activations::new(x2, s.width, w.gate.cols, tiles, packed);
            x2.times(k, &w.gate, &ffn, gate);
            x2.times(k, &w.up, &ffn, up);
            let own = rows(&ffn);
            if !own.is_empty() {
                let pairs = gate.chunks_exact_mut(own.len()).zip(up.chunks_exact(own.len()));
                for (i, (gate, up)) in pairs.enumerate() {
                    finite[i] &= (k.silu_gate)(gate, up);
                    // SAFETY: nobody reads act before the barrier, and these elements are this thread's.
                    unsafe { shared.act.write(i, own.clone()) }.copy_from_slice(gate);
                }
            }
            worker.barrier();
            // SAFETY: act is complete, and nobody writes it before the next layer.
            let act = unsafe { shared.act.read_all() };
            Activations::new(act, s.ffn, w.down.cols, tiles, packed).times(k, &w.down, &width, y);
            // SAFETY: nobody reads h before the barrier, and these rows are this thread's.
            unsafe { add(&shared.h, &width, y) };
            worker.barrier();
            if worker.index == 0 && self.wants(layer, Point::Residual) {
                // SAFETY: h is complete, and nobody writes it before the barrier after attention.
                (0..chunk.len()).for_each(|i| tap.extend(unsafe { shared.h.read(i, 0..s.true_width) }));
            }
        }
        if worker.index == 0 {
            x.resize(s.width, 0.0);
            x_final.resize(chunk.len() * s.true_width, f16::ZERO);
            for (i, out) in x_final.chunks_exact_mut(s.true_width).enumerate() {
                // SAFETY: h is complete, and nobody writes it any more.
                let h = unsafe { shared.h.read(i, 0..s.width) };
                finite[i] &= (k.rmsnorm)(h, &self.gains.last, s.true_width, s.eps, x);
                (k.narrow)(&x[..s.true_width], out);
            }
        }
    }

    /// The normed rows of h. A single row costs every thread less than a barrier would; several are shared out.
    ///
    /// # Safety
    /// h is complete, and nobody writes it, or reads x, before all threads are here.
    unsafe fn norm<'a>(
        &self,
        worker: Worker<'_>,
        shared: &'a Shared,
        gain: &[f32],
        alone: &'a mut Vec<f32>,
        finite: &mut [bool],
    ) -> &'a [f32] {
        let (k, s) = (self.kernels, &self.shape);
        let norm = |i: usize, x: &mut [f32]| {
            // SAFETY: the caller's contract.
            (k.rmsnorm)(unsafe { shared.h.read(i, 0..s.width) }, gain, s.true_width, s.eps, x)
        };
        if let [finite] = finite {
            alone.resize(s.width, 0.0);
            *finite &= norm(0, alone);
            return alone;
        }
        for (i, finite) in finite.iter_mut().enumerate().skip(worker.index).step_by(worker.of) {
            // SAFETY: a row is one thread's until the barrier.
            *finite &= norm(i, unsafe { shared.x.write(i, 0..s.width) });
        }
        worker.barrier();
        // SAFETY: x is complete, and the next norm comes after another barrier.
        unsafe { shared.x.read_all() }
    }

    /// This thread's share of the rows of q, k and v together.
    fn qkv_share(
        &self,
        worker: Worker<'_>,
        layer: usize,
        x: &Activations<'_>,
        shared: &Shared,
        y: &mut Vec<f32>,
    ) {
        let w = &self.weights.layers[layer];
        let share = worker.share(self.shape.qkv / PANEL);
        let mut start = 0;
        for w in [&w.q, &w.k, &w.v] {
            let count = panel_count(w);
            let (from, to) = (share.start.clamp(start, start + count), share.end.clamp(start, start + count));
            x.times(self.kernels, w, &(from - start..to - start), y);
            let own = rows(&(from..to));
            if !own.is_empty() {
                for (i, y) in y.chunks_exact_mut(own.len()).enumerate() {
                    self.add_bias(layer, own.start, y);
                    // SAFETY: these elements are this thread's until the barrier.
                    unsafe { shared.qkv.write(i, own.clone()) }.copy_from_slice(y);
                }
            }
            start += count;
        }
    }

    /// One key head of one run: turns its keys and its queries, stores keys and values, attends.
    ///
    /// # Safety
    /// Nobody writes this key head and its queries in `shared.qkv`, and no other thread touches its queries in
    /// `shared.attn`, or the run's pages in this layer and head.
    #[allow(clippy::too_many_arguments)]
    unsafe fn decode_head(
        &self,
        layer: usize,
        head: usize,
        chunk: &[Row],
        run: Range<usize>,
        shared: &Shared,
        finite: &mut [bool],
        scratch: &mut HeadScratch,
    ) {
        let (s, norm) = (&self.shape, &self.gains.layers[layer].q_norm);
        let (dim, group) = (s.dim, s.group());
        let own = head * group * dim..(head + 1) * group * dim;
        let (first, chunk) = (run.start, &chunk[run.clone()]);
        let mut queries = std::mem::take(&mut scratch.own);
        queries.resize(chunk.len() * own.len() + dim, 0.0);
        let (queries_only, key) = queries.split_at_mut(chunk.len() * own.len());
        for (i, (row, q)) in chunk.iter().zip(queries_only.chunks_exact_mut(own.len())).enumerate() {
            scratch.turn_to(self.rope.at(row.position));
            // SAFETY: the caller's contract.
            unsafe {
                q.copy_from_slice(shared.qkv.read(first + i, own.clone()));
                key.copy_from_slice(shared.qkv.read(first + i, s.k + head * dim..s.k + (head + 1) * dim));
                let value = shared.qkv.read(first + i, s.v + head * dim..s.v + (head + 1) * dim);
                finite[i] &= self.store_kv(layer, head, row, key, value, scratch);
            }
            for q in q.chunks_exact_mut(dim) {
                finite[i] &= self.turn(q, norm, &scratch.cos, &scratch.sin);
            }
        }
        let out = |i: usize, query: usize, result: &[f32], ok: bool| {
            // SAFETY: the caller's contract.
            unsafe { shared.attn.write(first + i, query * dim..(query + 1) * dim) }.copy_from_slice(result);
            finite[i] &= ok;
        };
        // SAFETY: keys and values of the run are there, and nobody else writes them.
        unsafe {
            self.attention(
                layer,
                head,
                chunk,
                queries_only,
                head * group,
                own.len(),
                &mut scratch.attend,
                out,
            )
        };
        scratch.own = queries;
    }
}

/// Each key head of each run: the head, and the run's rows of the chunk.
fn items(chunk: &[Row], kv_heads: usize) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
    let mut start = 0;
    let runs = chunk.chunk_by(|a, b| a.run == b.run).map(move |rows| {
        let run = start..start + rows.len();
        start = run.end;
        run
    });
    runs.flat_map(move |run| (0..kv_heads).map(move |head| (head, run.clone())))
}

/// Adds `y`, rows of the elements that panels hold, to the rows of `h`.
///
/// # Safety
/// Nobody else touches these elements meanwhile.
unsafe fn add(h: &SharedRows, panels: &Range<usize>, y: &[f32]) {
    let own = rows(panels);
    if own.is_empty() {
        return;
    }
    for (i, y) in y.chunks_exact(own.len()).enumerate() {
        // SAFETY: the caller's contract.
        unsafe { h.write(i, own.clone()) }.iter_mut().zip(y).for_each(|(h, y)| *h += y);
    }
}

/// Logits of a few rows, each thread its own part of the vocabulary.
pub(super) fn logits(
    k: &Kernels,
    pool: &mut Pool,
    lanes: &mut [Lane],
    head: &Tensor<'_>,
    x: &[f32],
    logits: &mut [f32],
) {
    let out = LogitRows { stride: head.rows, start: logits.as_mut_ptr(), len: logits.len() };
    pool.each(lanes, |worker, lane| {
        let Lane { tiles: mine, packed, y, .. } = lane;
        mine.clear();
        mine.extend(tiles(x.len() / head.cols, 1));
        let range = worker.share(panel_count(head));
        Activations::new(x, head.cols, head.cols, mine, packed).times(k, head, &range, y);
        let own = rows(&range);
        if !own.is_empty() {
            for (i, y) in y.chunks_exact(own.len()).enumerate() {
                // SAFETY: this part of the vocabulary is this thread's.
                unsafe { out.put(i, own.start, &y[..own.end.min(head.rows) - own.start]) };
            }
        }
    });
}

/// Rows of logits that threads write different columns of.
struct LogitRows {
    stride: usize,
    start: *mut f32,
    len: usize,
}

// SAFETY: writing goes through the unsafe method, whose callers keep threads apart.
unsafe impl Sync for LogitRows {}

impl LogitRows {
    /// # Safety
    /// The logits live, and nobody else touches these elements of the row meanwhile.
    unsafe fn put(&self, row: usize, column: usize, values: &[f32]) {
        let at = row * self.stride + column;
        assert!(column + values.len() <= self.stride && at + values.len() <= self.len);
        // SAFETY: the elements lie within the logits; the caller keeps others away.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(at), values.len()) };
    }
}
