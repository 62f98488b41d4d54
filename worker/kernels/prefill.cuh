// Products for many rows: a tile of 64 rows of the step by 128 rows of the matrix a block of threads, each thread 4 by 8.
//
// Every output has one accumulator for the block of 128 columns it is in and one for the sum of the blocks before it.
#pragma once
#include "finish.cuh"

constexpr u32 PREFILL_THREADS = 256;
// Rows of the step, rows of the matrix, columns in shared memory at a time.
constexpr u32 TILE_S = 64;
constexpr u32 TILE_R = 128;
constexpr u32 TILE_K = 16;

struct PrefillStage {
  float w[TILE_K][TILE_R];
  float x[TILE_K][TILE_S];
};

template <class Finish>
DEVICE void prefill(const Product& p, const Finish& finish, PrefillStage* stages) {
  previous_wait();
  const Matrix& w = p.w;
  const u32 t = threadIdx.x, across = t % 16, down = t / 16;
  const u32 first_row = blockIdx.x * TILE_R, first_s = blockIdx.y * TILE_S, count = *p.step.count;
  if (first_s >= count) return;
  const u32 width = padded(w.cols), slabs = ceil_div(w.chunks(), 2);
  const u32 slabs_a_block = BLOCK / TILE_K;

  // Each thread brings one chunk of one row of the matrix, and half of them one of the step.
  const u32 w_row = first_row + t % TILE_R, w_chunk = t / TILE_R;
  const u32 x_row = first_s + t % TILE_S, x_chunk = t / TILE_S;
  uint4 w_next = {0, 0, 0, 0}, x_next = {0, 0, 0, 0};
  const auto fetch = [&](u32 slab) {
    const u32 chunk = slab * 2 + w_chunk;
    w_next = x_next = {0, 0, 0, 0};
    if (chunk < w.chunks() && w_row < w.groups() * 8) w_next = *w.at(w_row, chunk / 16, chunk % 16);
    const u32 column = (slab * 2 + x_chunk) * 8;
    if (x_chunk < 2 && x_row < count && column < width) {
      x_next = *reinterpret_cast<const uint4*>(p.x + static_cast<u64>(x_row) * width + column);
    }
  };
  const auto put = [&](PrefillStage& stage) {
    const Eight e = widen(w_next), f = widen(x_next);
#pragma unroll
    for (u32 i = 0; i < 8; ++i) stage.w[w_chunk * 8 + i][t % TILE_R] = e.v[i];
    if (x_chunk < 2) {
#pragma unroll
      for (u32 i = 0; i < 8; ++i) stage.x[x_chunk * 8 + i][t % TILE_S] = f.v[i];
    }
  };

  float acc[4][8], total[4][8];
#pragma unroll
  for (u32 s = 0; s < 4; ++s) {
#pragma unroll
    for (u32 r = 0; r < 8; ++r) acc[s][r] = total[s][r] = 0.0f;
  }
  fetch(0);
  put(stages[0]);
  barrier();
#pragma unroll 1
  for (u32 slab = 0; slab < slabs; ++slab) {
    if (slab + 1 < slabs) fetch(slab + 1);
    const PrefillStage& stage = stages[slab % 2];
#pragma unroll
    for (u32 k = 0; k < TILE_K; ++k) {
      const float4 x = load_shared(&stage.x[k][down * 4]);
      const float4 low = load_shared(&stage.w[k][across * 4]);
      const float4 high = load_shared(&stage.w[k][TILE_R / 2 + across * 4]);
      const float xs[4] = {x.x, x.y, x.z, x.w};
      const float ws[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (u32 s = 0; s < 4; ++s) {
#pragma unroll
        for (u32 r = 0; r < 8; ++r) acc[s][r] = fmaf(xs[s], ws[r], acc[s][r]);
      }
    }
    if (slab % slabs_a_block == slabs_a_block - 1 || slab + 1 == slabs) {
      // The first total is 0 + the first block's sum, which has the same bits: no sum is -0.
#pragma unroll
      for (u32 s = 0; s < 4; ++s) {
#pragma unroll
        for (u32 r = 0; r < 8; ++r) {
          total[s][r] += acc[s][r];
          acc[s][r] = 0.0f;
        }
      }
    }
    if (slab + 1 < slabs) {
      put(stages[(slab + 1) % 2]);
      barrier();
    }
  }
#pragma unroll
  for (u32 s = 0; s < 4; ++s) {
    const u32 row = first_s + down * 4 + s;
    if (row >= count) return;
#pragma unroll
    for (u32 r = 0; r < 8; r += 2) {
      finish(row, first_row + (r / 4) * (TILE_R / 2) + across * 4 + r % 4, total[s][r], total[s][r + 1]);
    }
  }
}

#define PREFILL_KERNEL(name, Args, Finish, product) \
  KERNEL(name##_many, Args, PREFILL_THREADS) {      \
    SHARED(PrefillStage, stages, 2);                \
    prefill(product, Finish{a}, stages);            \
  }
