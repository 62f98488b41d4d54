//! Prefill: a thread owns tokens and carries them through a layer alone. All it shares is the cache: one barrier a
//! layer, between the keys and values of all tokens and the first look at them.

use half::f16;

use super::kernels::{pack, Kernels, Tile, TILE};
use super::{panel_count, panels, Lane, Pass, Pool, Step, Worker};
use crate::canon::tensor::PANEL;
use crate::canon::{Forward, Tensor};

/// Cuts 0..n into tiles as even as possible, at least one for each thread if there are as many rows.
fn tiles(n: usize, threads: usize) -> impl Iterator<Item = Tile> {
    let count = n.div_ceil(TILE).max(threads.min(n));
    (0..count).map(move |i| {
        let start = n * i / count;
        Tile { start, count: n * (i + 1) / count - start }
    })
}

impl Lane {
    /// Takes over the tiles that are this thread's, with their tokens and positions.
    fn take(&mut self, tokens: &[u32], first: usize, index: usize, threads: usize) {
        self.tiles.clear();
        self.tokens.clear();
        self.positions.clear();
        for tile in tiles(tokens.len(), threads).skip(index).step_by(threads) {
            self.tiles.push(Tile { start: self.tokens.len(), count: tile.count });
            self.tokens.extend(&tokens[tile.start..tile.start + tile.count]);
            self.positions.extend(first + tile.start..first + tile.start + tile.count);
        }
        self.finite.clear();
        self.finite.resize(self.tokens.len(), true);
        self.tap.clear();
    }
}

/// y = w x for all rows, into `y` rows of `stride`.
fn product(k: &Kernels, w: &Tensor<'_>, packed: &[f32], tiles: &[Tile], y: &mut [f32], stride: usize) {
    (k.gemm)(w.panels, w.cols, packed, tiles, y, stride);
}

impl Pass<'_> {
    /// Computes `tokens` at positions `first` on.
    pub(super) fn prefill(&self, pool: &mut Pool, lanes: &mut [Lane], tokens: &[u32], first: usize) -> Step {
        pool.each(lanes, |worker, lane| {
            lane.take(tokens, first, worker.index, worker.of);
            self.prefill_lane(worker, lane);
        });
        let width = self.shape.true_width;
        let mut forward =
            Forward { x_final: vec![f16::ZERO; tokens.len() * width], finite: vec![true; tokens.len()] };
        let mut residual = vec![0.0; if self.tap.is_some() { tokens.len() * width } else { 0 }];
        for lane in lanes {
            for (i, position) in lane.positions.iter().enumerate() {
                let row = (position - first) * width..(position - first + 1) * width;
                forward.x_final[row.clone()].copy_from_slice(&lane.x_final[i * width..][..width]);
                forward.finite[position - first] = lane.finite[i];
                if self.tap.is_some() {
                    residual[row].copy_from_slice(&lane.tap[i * width..][..width]);
                }
            }
        }
        Step { forward, residual }
    }

    /// All layers for this thread's tokens.
    fn prefill_lane(&self, worker: Worker<'_>, lane: &mut Lane) {
        let (k, s) = (self.kernels, &self.shape);
        let Lane {
            tiles,
            tokens,
            positions,
            h,
            x,
            packed,
            qkv,
            attn,
            gate,
            up,
            y,
            tap,
            x_final,
            finite,
            heads,
        } = lane;
        let n = tokens.len();
        if n == 0 {
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

        for (token, h) in tokens.iter().zip(h.chunks_exact_mut(s.width)) {
            self.embed(*token, h);
        }
        for (layer, w) in self.weights.layers.iter().enumerate() {
            let gains = &self.gains.layers[layer];
            let norm = |h: &[f32], gain: &[f32], x: &mut [f32], finite: &mut [bool]| {
                for ((h, x), finite) in h.chunks_exact(s.width).zip(x.chunks_exact_mut(s.width)).zip(finite) {
                    *finite &= (k.rmsnorm)(h, gain, s.true_width, s.eps, x);
                }
            };
            norm(h, &gains.attn, x, finite);
            pack(x, s.width, s.true_width, tiles, packed);
            for (w, start) in [(&w.q, 0), (&w.k, s.k), (&w.v, s.v)] {
                product(k, w, packed, tiles, &mut qkv[start..], s.qkv);
            }
            for ((row, position), finite) in qkv.chunks_exact_mut(s.qkv).zip(&*positions).zip(&mut *finite) {
                self.add_bias(layer, 0, row);
                heads.turn_to(self.rope.at(*position));
                let (q, kv) = row.split_at_mut(s.k);
                let (keys, values) = kv.split_at_mut(s.v - s.k);
                for q in q.chunks_exact_mut(s.dim).take(s.heads) {
                    *finite &= (k.rope)(q, &heads.cos, &heads.sin);
                }
                let pairs = keys.chunks_exact_mut(s.dim).zip(values.chunks_exact(s.dim));
                for (head, (key, value)) in pairs.take(s.kv_heads).enumerate() {
                    // SAFETY: readers wait at the barrier below; this position is this thread's.
                    *finite &= unsafe { self.store_kv(layer, head, *position, key, value, heads) };
                }
            }
            worker.barrier();
            for tile in &*tiles {
                let q = &qkv[tile.start * s.qkv..(tile.start + tile.count) * s.qkv];
                for head in 0..s.kv_heads {
                    let out = |row: usize, head: usize, result: &[f32], ok: bool| {
                        let row = tile.start + row;
                        attn[row * s.attn + head * s.dim..][..s.dim].copy_from_slice(result);
                        finite[row] &= ok;
                    };
                    let first = positions[tile.start];
                    // SAFETY: all positions of this layer were written before the barrier.
                    unsafe {
                        self.attention(layer, head, q, 0, s.qkv, first, tile.count, &mut heads.attend, out)
                    };
                }
            }
            pack(attn, s.attn, w.o.cols, tiles, packed);
            product(k, &w.o, packed, tiles, y, s.width);
            h.iter_mut().zip(&*y).for_each(|(h, y)| *h += y);

            norm(h, &gains.ffn, x, finite);
            pack(x, s.width, s.true_width, tiles, packed);
            product(k, &w.gate, packed, tiles, gate, s.ffn);
            product(k, &w.up, packed, tiles, up, s.ffn);
            let rows = gate.chunks_exact_mut(s.ffn).zip(up.chunks_exact(s.ffn));
            for ((gate, up), finite) in rows.zip(&mut *finite) {
                *finite &= (k.silu_gate)(gate, up);
            }
            pack(gate, s.ffn, w.down.cols, tiles, packed);
            product(k, &w.down, packed, tiles, y, s.width);
            h.iter_mut().zip(&*y).for_each(|(h, y)| *h += y);
            if self.tap == Some(layer) {
                h.chunks_exact(s.width).for_each(|h| tap.extend(&h[..s.true_width]));
            }
        }
        let rows = h
            .chunks_exact(s.width)
            .zip(x.chunks_exact_mut(s.width))
            .zip(x_final.chunks_exact_mut(s.true_width));
        for (((h, x), out), finite) in rows.zip(finite) {
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
        (k.gemm)(panels(head, 0..whole), head.cols, packed, mine, out, head.rows);
        if whole < last {
            y.resize(rows.len() * PANEL, 0.0);
            (k.gemm)(panels(head, whole..last), head.cols, packed, mine, y, PANEL);
            for (out, y) in out.chunks_exact_mut(head.rows).zip(y.chunks_exact(PANEL)) {
                out[whole * PANEL..].copy_from_slice(&y[..head.rows - whole * PANEL]);
            }
        }
    });
}
