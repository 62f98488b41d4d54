// Embedding, and normalisation: of the residual stream, and of heads of q and k.
#pragma once
#include "finish.cuh"

constexpr u32 NORM_THREADS = 256;
// Blocks of 128 that a pass over the row takes.
constexpr u32 NORM_BLOCKS = 32;
// Lanes walk blocks side by side; one more element keeps them in different banks.
constexpr u32 NORM_PITCH = BLOCK + 1;

// One block of threads a row. The first kernel of a step: it also clears the row's mark.
KERNEL(embed, EmbedArgs, 256) {
  previous_wait();
  const u32 row = blockIdx.x;
  if (row >= *a.step.count) return;
  const u32 token = a.step.rows[row].token, width = a.table.cols;
  for (u32 k = threadIdx.x; k < width; k += blockDim.x) {
    const uint4* chunk = a.table.at(token, k / BLOCK, k % BLOCK / 8);
    a.h[static_cast<u64>(row) * padded(width) + k] = widen_one(reinterpret_cast<const u16*>(chunk)[k % 8]);
  }
  if (threadIdx.x == 0) a.step.bad[row] = 0;
}

// One block of threads a row.
KERNEL(rmsnorm, NormArgs, NORM_THREADS) {
  SHARED(float, part, NORM_BLOCKS * NORM_PITCH);
  SHARED(float, sums, NORM_BLOCKS);
  SHARED(float, rstd, 1);
  previous_wait();
  const u32 row = blockIdx.x, t = threadIdx.x;
  if (row >= *a.step.count) return;
  const float* h = a.h + static_cast<u64>(row) * padded(a.width);
  const u32 blocks = ceil_div(a.width, BLOCK);
  float total = 0.0f;
  for (u32 first = 0; first < blocks; first += NORM_BLOCKS) {
    const u32 here = blocks - first < NORM_BLOCKS ? blocks - first : NORM_BLOCKS;
    for (u32 i = t; i < here * BLOCK; i += blockDim.x) {
      const u32 k = first * BLOCK + i;
      part[i / BLOCK * NORM_PITCH + i % BLOCK] = k < a.width ? h[k] : 0.0f;
    }
    barrier();
    if (t < here) {
      float sum = 0.0f;
      for (u32 i = 0; i < BLOCK; ++i) {
        const float x = part[t * NORM_PITCH + i];
        sum = fmaf(x, x, sum);
      }
      sums[t] = sum;
    }
    barrier();
    if (t == 0) {
      for (u32 i = 0; i < here; ++i) total = first + i == 0 ? sums[i] : total + sums[i];
    }
  }
  if (t == 0) {
    rstd[0] = divide(1.0f, square_root(divide(total, static_cast<float>(a.width)) + a.eps));
  }
  barrier();
  bool finite = true;
  for (u32 k = t; k < a.width; k += blockDim.x) {
    a.x[static_cast<u64>(row) * padded(a.width) + k] = store((h[k] * rstd[0]) * widen_one(a.gain[k]), finite);
  }
  if (!finite) a.step.bad[row] = 1;
}

constexpr u32 HEAD_THREADS = 128;

// A block of threads for each head of q, k and v, and each row.
KERNEL(head_norm, HeadNormArgs, HEAD_THREADS) {
  SHARED(float, values, MAX_DIM);
  SHARED(float, sums, MAX_DIM / BLOCK);
  previous_wait();
  const u32 row = blockIdx.z, head = blockIdx.x, t = threadIdx.x;
  if (row >= *a.step.count) return;
  const u32 dim = a.to.cache.dim, half = dim / 2, blocks = ceil_div(dim, BLOCK);
  const u32 first = head * dim, all = (a.to.heads + 2 * a.to.cache.heads) * dim;
  const bool normed = head < a.to.heads + a.to.cache.heads;
  for (u32 i = t; i < dim; i += blockDim.x) {
    const float y = a.y[static_cast<u64>(row) * all + first + i];
    values[i] = a.bias ? y + widen_one(a.bias[first + i]) : y;
  }
  barrier();
  if (normed && t < blocks) {
    const u32 end = (t + 1) * BLOCK < dim ? (t + 1) * BLOCK : dim;
    float sum = 0.0f;
    for (u32 e = t * BLOCK; e < end; ++e) {
      // Halves of a head are interleaved, the sum takes its elements in their own order.
      const float x = values[e < half ? 2 * e : 2 * (e - half) + 1];
      sum = fmaf(x, x, sum);
    }
    sums[t] = sum;
  }
  barrier();
  float rstd = 1.0f;
  if (normed) {
    float total = sums[0];
    for (u32 i = 1; i < blocks; ++i) total += sums[i];
    rstd = divide(1.0f, square_root(divide(total, static_cast<float>(dim)) + a.eps));
  }
  const u16* gain = head < a.to.heads ? a.q_gain : a.k_gain;
  for (u32 i = t; i < half; i += blockDim.x) {
    float x = values[2 * i], y = values[2 * i + 1];
    if (normed) {
      x = (x * rstd) * widen_one(gain[i]);
      y = (y * rstd) * widen_one(gain[half + i]);
    }
    store_heads(a.step, a.to, row, first + 2 * i, x, y);
  }
}
