//! Decoding one token: a thread owns rows of every matrix, so that each weight is read once and in sequence. Vectors
//! that all threads need are shared, with a barrier between writing and reading them.

use std::cell::UnsafeCell;
use std::ops::Range;

use half::f16;

use super::kernels::Kernels;
use super::{panel_count, panels, Lane, Pass, Pool, Shape, Step, Worker};
use crate::canon::tensor::PANEL;
use crate::canon::{Forward, Tensor};

/// A vector that threads write parts of and read.
struct SharedVec(Box<[UnsafeCell<f32>]>);

// SAFETY: access goes through the two unsafe methods, whose callers keep threads apart.
unsafe impl Sync for SharedVec {}

impl SharedVec {
    fn new(len: usize) -> Self {
        Self((0..len).map(|_| UnsafeCell::new(0.0)).collect())
    }

    /// # Safety
    /// Nobody writes any of the range meanwhile.
    unsafe fn read(&self, range: Range<usize>) -> &[f32] {
        let cells = &self.0[range];
        // SAFETY: a cell has the layout of its content; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// # Safety
    /// Nobody else reads or writes any of the range meanwhile.
    #[allow(clippy::mut_from_ref)]
    unsafe fn write(&self, range: Range<usize>) -> &mut [f32] {
        let cells = &self.0[range];
        // SAFETY: a cell has the layout of its content; the caller keeps others away.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }
}

/// The vectors of one token.
pub struct Shared {
    h: SharedVec,
    qkv: SharedVec,
    attn: SharedVec,
    act: SharedVec,
}

impl Shared {
    pub(super) fn new(s: &Shape) -> Self {
        Self {
            h: SharedVec::new(s.width),
            qkv: SharedVec::new(s.qkv),
            attn: SharedVec::new(s.attn),
            act: SharedVec::new(s.ffn),
        }
    }
}

/// The rows that panels hold.
fn rows(panels: &Range<usize>) -> Range<usize> {
    panels.start * PANEL..panels.end * PANEL
}

/// y = the given panels of w, times x.
fn product(k: &Kernels, w: &Tensor<'_>, range: Range<usize>, x: &[f32], y: &mut [f32]) {
    (k.gemv)(panels(w, range), &x[..w.cols], y);
}

impl Pass<'_> {
    /// Computes `token` at `position`, with as many threads as lanes.
    pub(super) fn decode(
        &self,
        pool: &mut Pool,
        lanes: &mut [Lane],
        shared: &Shared,
        token: u32,
        position: usize,
    ) -> Step {
        pool.each(lanes, |worker, lane| self.decode_lane(worker, lane, shared, token, position));
        let finite = lanes.iter().all(|lane| lane.finite[0]);
        let first = &mut lanes[0];
        let forward = Forward { x_final: first.x_final.clone(), finite: vec![finite] };
        Step { forward, residual: std::mem::take(&mut first.tap) }
    }

    /// All layers for this thread's rows.
    fn decode_lane(&self, worker: Worker<'_>, lane: &mut Lane, shared: &Shared, token: u32, position: usize) {
        let (k, s) = (self.kernels, &self.shape);
        let Lane { x, up, y, tap, x_final, finite, heads, .. } = lane;
        let width = worker.share(s.width / PANEL);
        let ffn = worker.share(s.ffn / PANEL);
        let mut ok = true;
        x.resize(s.width, 0.0);
        y.resize(rows(&width).len(), 0.0);
        up.resize(rows(&ffn).len(), 0.0);
        heads.turn_to(self.rope.at(position));
        tap.clear();
        if worker.index == 0 {
            // SAFETY: the others wait at the barrier.
            self.embed(token, unsafe { shared.h.write(0..s.width) });
        }
        worker.barrier();
        for (layer, w) in self.weights.layers.iter().enumerate() {
            let gains = &self.gains.layers[layer];
            // SAFETY: nobody writes h between here and the barrier after attention.
            ok &= (k.rmsnorm)(unsafe { shared.h.read(0..s.width) }, &gains.attn, s.true_width, s.eps, x);
            self.qkv_share(worker, layer, x, shared);
            worker.barrier();
            for head in (worker.index..s.kv_heads).step_by(worker.of) {
                // SAFETY: a thread alone has the rows of its key heads and of their queries from here to the barrier.
                ok &= unsafe { self.decode_head(layer, head, position, shared, heads) };
            }
            worker.barrier();
            // SAFETY: attn is complete and nobody writes it before the next layer; rows of h are this thread's.
            unsafe {
                product(k, &w.o, width.clone(), shared.attn.read(0..s.attn), y);
                shared.h.write(rows(&width)).iter_mut().zip(&*y).for_each(|(h, y)| *h += y);
            }
            worker.barrier();
            // SAFETY: h is complete, and nobody writes it before the next barrier; rows of act are this thread's.
            unsafe {
                ok &= (k.rmsnorm)(shared.h.read(0..s.width), &gains.ffn, s.true_width, s.eps, x);
                let gate = shared.act.write(rows(&ffn));
                product(k, &w.gate, ffn.clone(), x, gate);
                product(k, &w.up, ffn.clone(), x, up);
                ok &= (k.silu_gate)(gate, up);
            }
            worker.barrier();
            // SAFETY: act is complete and nobody writes it before the next layer; rows of h are this thread's.
            unsafe {
                product(k, &w.down, width.clone(), shared.act.read(0..s.ffn), y);
                shared.h.write(rows(&width)).iter_mut().zip(&*y).for_each(|(h, y)| *h += y);
            }
            worker.barrier();
            if self.tap == Some(layer) && worker.index == 0 {
                // SAFETY: h is complete, and nobody writes it before the barrier after attention.
                tap.extend(unsafe { shared.h.read(0..s.true_width) });
            }
        }
        if worker.index == 0 {
            // SAFETY: h is complete, and nobody writes it any more.
            ok &= (k.rmsnorm)(unsafe { shared.h.read(0..s.width) }, &self.gains.last, s.true_width, s.eps, x);
            x_final.resize(s.true_width, f16::ZERO);
            (k.narrow)(&x[..s.true_width], x_final);
        }
        finite.clear();
        finite.push(ok);
    }

    /// This thread's share of the rows of q, k and v together.
    fn qkv_share(&self, worker: Worker<'_>, layer: usize, x: &[f32], shared: &Shared) {
        let w = &self.weights.layers[layer];
        let share = worker.share(self.shape.qkv / PANEL);
        let mut start = 0;
        for w in [&w.q, &w.k, &w.v] {
            let count = panel_count(w);
            let (from, to) = (share.start.clamp(start, start + count), share.end.clamp(start, start + count));
            // SAFETY: these rows are this thread's until the barrier.
            let y = unsafe { shared.qkv.write(rows(&(from..to))) };
            product(self.kernels, w, from - start..to - start, x, y);
            self.add_bias(layer, from * PANEL, y);
            start += count;
        }
    }

    /// One key head: turns its key and its queries, stores key and value, attends.
    ///
    /// # Safety
    /// No other thread touches the rows of this key head and its queries in `shared`, or this head's cache.
    unsafe fn decode_head(
        &self,
        layer: usize,
        head: usize,
        position: usize,
        shared: &Shared,
        scratch: &mut super::HeadScratch,
    ) -> bool {
        let (k, s) = (self.kernels, &self.shape);
        let (dim, group) = (s.dim, s.group());
        let mut ok = true;
        let own = head * group * dim..(head + 1) * group * dim;
        // SAFETY: the caller's contract; the three ranges do not overlap.
        unsafe {
            let q = shared.qkv.write(own.clone());
            for q in q.chunks_exact_mut(dim) {
                ok &= (k.rope)(q, &scratch.cos, &scratch.sin);
            }
            let key = shared.qkv.write(s.k + head * dim..s.k + (head + 1) * dim);
            let value = shared.qkv.read(s.v + head * dim..s.v + (head + 1) * dim);
            ok &= self.store_kv(layer, head, position, key, value, scratch);
            let attn = shared.attn.write(own);
            let out = |_: usize, query: usize, result: &[f32], finite: bool| {
                attn[(query - head * group) * dim..][..dim].copy_from_slice(result);
                ok &= finite;
            };
            self.attention(layer, head, q, head * group, s.attn, position, 1, &mut scratch.attend, out);
        }
        ok
    }
}

/// Logits of one row, each of `threads` threads its own part of the vocabulary.
pub(super) fn logits(
    k: &Kernels,
    pool: &mut Pool,
    threads: usize,
    head: &Tensor<'_>,
    x: &[f32],
    logits: &mut [f32],
) {
    let mut rest = logits;
    let mut jobs = Vec::new();
    let total = panel_count(head);
    for index in 0..threads {
        let range = total * index / threads..total * (index + 1) / threads;
        let len = rows(&range).len().min(rest.len());
        let out;
        (out, rest) = rest.split_at_mut(len);
        jobs.push((range, out));
    }
    pool.each(&mut jobs, |_, (range, out)| {
        let whole = out.len() / PANEL;
        let (full, tail) = out.split_at_mut(whole * PANEL);
        product(k, head, range.start..range.start + whole, x, full);
        if !tail.is_empty() {
            let mut last = [0.0; PANEL];
            product(k, head, range.end - 1..range.end, x, &mut last);
            tail.copy_from_slice(&last[..tail.len()]);
        }
    });
}
