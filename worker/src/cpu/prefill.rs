//! Many positions: a thread owns tokens and carries them through a layer alone. All it shares is the cache: one barrier
//! a layer, between the keys and values of all tokens and the first look at them.

use half::f16;

use super::kernels::{pack, Kernels, Tile, TILE};
use super::{panel_count, Lane, Pass, Point, Pool, Row, Worker};
use crate::canon::tensor::PANEL;
use crate::canon::Tensor;

/// Cuts 0..n into tiles as even as possible, at least one for each thread if there are as many rows.
pub(super) fn tiles(n: usize, threads: usize) -> impl Iterator<Item = Tile> {
    let count = n.div_ceil(TILE).max(threads.min(n));
    (0..count).map(move |i| {
        let start = n * i / count;
        Tile { start, count: n * (i + 1) / count - start }
    })
}

impl Lane {
    /// Takes over the tiles that are this thread's, with their rows.
    fn take(&mut self, chunk: &[Row], worker: Worker<'_>) {
        self.tiles.clear();
        self.rows.clear();
        for tile in tiles(chunk.len(), worker.of).skip(worker.index).step_by(worker.of) {
            self.tiles.push(Tile { start: self.rows.len(), count: tile.count });
            self.rows.extend(&chunk[tile.start..tile.start + tile.count]);
        }
        self.finite.clear();
        self.finite.resize(self.rows.len(), true);
        self.tap.clear();
    }
}

/// y = w x for all rows, into `y` rows of `stride`.
fn product(k: &Kernels, w: &Tensor<'_>, packed: &[f32], tiles: &[Tile], y: &mut [f32], stride: usize) {
    (k.gemm)(w, packed, tiles, y, stride);
}

/// What is wanted of the tensors of a layer, `len` elements of each row, into the tap.
fn note(tap: &mut Vec<f32>, wanted: bool, rows: &[f32], stride: usize, start: usize, len: usize) {
    if wanted {
        rows.chunks_exact(stride).for_each(|row| tap.extend(&row[start..start + len]));
    }
}

impl Pass<'_> {
    /// Computes `chunk` with as many threads as lanes.
    pub(super) fn prefill<'l>(
        &self,
        pool: &mut Pool,
        lanes: &'l mut [Lane],
        chunk: &[Row],
    ) -> &'l mut [Lane] {
        pool.each(lanes, |worker, lane| {
            lane.take(chunk, worker);
            self.prefill_lane(worker, lane);
        });
        lanes
    }

    /// All layers for this thread's tokens.
    fn prefill_lane(&self, worker: Worker<'_>, lane: &mut Lane) {
        let (k, s) = (self.kernels, &self.shape);
        let Lane { tiles, rows, finite, h, x, packed, qkv, attn, gate, up, y, tap, x_final, heads } = lane;
        let n = rows.len();
        if n == 0 {
            x_final.clear();
            self.weights.layers.iter().for_each(|_| worker.barrier());
            return;
        }
        for (buffer, len) in [
            (&mut *h, s.width),
            (&mut *x, s.width),
            (&mut *packed, s.width.max(s.attn).max(s.ffn)),
            (&mut *qkv, s.qkv),
            (&mut *attn, s.attn),
            (&mut *gate, s.ffn),
            (&mut *up, s.ffn),
            (&mut *y, s.width),
        ] {
            buffer.resize(n * len, 0.0);
        }
        x_final.resize(n * s.true_width, f16::ZERO);

        for (row, h) in rows.iter().zip(h.chunks_exact_mut(s.width)) {
            self.embed(row.token, h);
        }
        for (layer, w) in self.weights.layers.iter().enumerate() {
            let gains = &self.gains.layers[layer];
            let wants = |point| self.wants(layer, point);
            let norm = |h: &[f32], gain: &[f32], x: &mut [f32], finite: &mut [bool]| {
                for ((h, x), finite) in h.chunks_exact(s.width).zip(x.chunks_exact_mut(s.width)).zip(finite) {
                    *finite &= (k.rmsnorm)(h, gain, s.true_width, s.eps, x);
                }
            };
            norm(h, &gains.attn, x, finite);
            note(tap, wants(Point::AttnNorm), x, s.width, 0, s.true_width);
            pack(x, s.width, s.true_width, tiles, packed);
            for (w, start) in [(&w.q, 0), (&w.k, s.k), (&w.v, s.v)] {
                product(k, w, packed, tiles, &mut qkv[start..], s.qkv);
            }
            for ((turned, row), finite) in qkv.chunks_exact_mut(s.qkv).zip(&*rows).zip(&mut *finite) {
                self.add_bias(layer, 0, turned);
                heads.turn_to(self.rope.at(row.position));
                let (q, kv) = turned.split_at_mut(s.k);
                let (keys, values) = kv.split_at_mut(s.v - s.k);
                for q in q.chunks_exact_mut(s.dim).take(s.heads) {
                    *finite &= self.turn(q, &gains.q_norm, &heads.cos, &heads.sin);
                }
                let pairs = keys.chunks_exact_mut(s.dim).zip(values.chunks_exact_mut(s.dim));
                for (head, (key, value)) in pairs.take(s.kv_heads).enumerate() {
                    // SAFETY: readers wait at the barrier below; this position is this thread's.
                    *finite &= unsafe { self.store_kv(layer, head, row, key, value, heads) };
                    if wants(Point::Value) {
                        value.iter_mut().zip(&heads.value).for_each(|(to, x)| *to = x.to_f32());
                    }
                }
            }
            let kv = s.kv_heads * s.dim;
            note(tap, wants(Point::Query), qkv, s.qkv, 0, s.heads * s.dim);
            note(tap, wants(Point::Key), qkv, s.qkv, s.k, kv);
            note(tap, wants(Point::Value), qkv, s.qkv, s.v, kv);
            worker.barrier();
            for tile in &*tiles {
                let mut start = tile.start;
                for run in rows[start..start + tile.count].chunk_by(|a, b| a.run == b.run) {
                    let q = &qkv[start * s.qkv..(start + run.len()) * s.qkv];
                    for head in 0..s.kv_heads {
                        let out = |row: usize, head: usize, result: &[f32], ok: bool| {
                            let row = start + row;
                            attn[row * s.attn + head * s.dim..][..s.dim].copy_from_slice(result);
                            finite[row] &= ok;
                        };
                        // SAFETY: all positions of this layer were written before the barrier.
                        unsafe { self.attention(layer, head, run, q, 0, s.qkv, &mut heads.attend, out) };
                    }
                    start += run.len();
                }
            }
            note(tap, wants(Point::Attn), attn, s.attn, 0, s.heads * s.dim);
            pack(attn, s.attn, w.o.cols, tiles, packed);
            product(k, &w.o, packed, tiles, y, s.width);
            h.iter_mut().zip(&*y).for_each(|(h, y)| *h += y);
            note(tap, wants(Point::Middle), h, s.width, 0, s.true_width);

            norm(h, &gains.ffn, x, finite);
            note(tap, wants(Point::FfnNorm), x, s.width, 0, s.true_width);
            pack(x, s.width, s.true_width, tiles, packed);
            product(k, &w.gate, packed, tiles, gate, s.ffn);
            product(k, &w.up, packed, tiles, up, s.ffn);
            let pairs = gate.chunks_exact_mut(s.ffn).zip(up.chunks_exact(s.ffn));
            for ((gate, up), finite) in pairs.zip(&mut *finite) {
                *finite &= (k.silu_gate)(gate, up);
            }
            note(tap, wants(Point::Act), gate, s.ffn, 0, w.down.cols);
            pack(gate, s.ffn, w.down.cols, tiles, packed);
            product(k, &w.down, packed, tiles, y, s.width);
            h.iter_mut().zip(&*y).for_each(|(h, y)| *h += y);
            note(tap, wants(Point::Residual), h, s.width, 0, s.true_width);
        }
        let last = h
            .chunks_exact(s.width)
            .zip(x.chunks_exact_mut(s.width))
            .zip(x_final.chunks_exact_mut(s.true_width));
        for (((h, x), out), finite) in last.zip(finite) {
            *finite &= (k.rmsnorm)(h, &self.gains.last, s.true_width, s.eps, x);
            (k.narrow)(&x[..s.true_width], out);
        }
    }
}

/// Logits of several rows of `x`, each thread its own rows.
pub(super) fn logits(
    k: &Kernels,
    pool: &mut Pool,
    lanes: &mut [Lane],
    head: &Tensor<'_>,
    x: &[f32],
    logits: &mut [f32],
) {
    let n = x.len() / head.cols;
    let (whole, last) = (head.rows / PANEL, panel_count(head));
    let mut rest = logits;
    let mut jobs = Vec::new();
    for (index, lane) in lanes.iter_mut().enumerate() {
        let rows = n * index / pool.threads()..n * (index + 1) / pool.threads();
        let out;
        (out, rest) = rest.split_at_mut(rows.len() * head.rows);
        jobs.push((lane, rows, out));
    }
    pool.each(&mut jobs, |_, (lane, rows, out)| {
        let Lane { tiles: mine, packed, y, .. } = &mut **lane;
        mine.clear();
        mine.extend(tiles(rows.len(), 1));
        packed.resize(rows.len() * head.cols, 0.0);
        pack(&x[rows.start * head.cols..], head.cols, head.cols, mine, packed);
        (k.gemm)(&head.panels(0..whole), packed, mine, out, head.rows);
        if whole < last {
            y.resize(rows.len() * PANEL, 0.0);
            (k.gemm)(&head.panels(whole..last), packed, mine, y, PANEL);
            for (out, y) in out.chunks_exact_mut(head.rows).zip(y.chunks_exact(PANEL)) {
                out[whole * PANEL..].copy_from_slice(&y[..head.rows - whole * PANEL]);
            }
        }
    });
}
