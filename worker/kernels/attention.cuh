// Attention over blocks of 128 positions, which are the pages of the cache. A softmax needs its greatest score before
// its first weight, so that there are three kernels: scores with each block's greatest, weighted values of each block,
// and the sum over blocks.
//
// The grid is (some blocks at a time, key heads x tiles of their query heads, rows); `values` also has slices of a head.
#pragma once
#include "canon.cuh"
#include "layout.cuh"

constexpr u32 ATTEND_THREADS = 128;
// Query heads that share what is read of a key head.
constexpr u32 HEADS = 8;
// Elements of a head that one block of threads sums.
constexpr u32 SLICE = 128;

DEVICE u32 first_seen(const AttendArgs& a, u32 position) {
  return position + 1 > a.window ? position + 1 - a.window : 0;
}

// What a block of threads looks at.
struct Part {
  Row row;
  u32 key_head;
  u32 first_head;
  u32 heads;
  u32 slice;
  // What is seen: positions from `seen` to `positions`, which are in blocks from `start` to `blocks`.
  u32 seen;
  u32 positions;
  u32 start;
  u32 blocks;

  DEVICE Part(const AttendArgs& a, u32 slices) {
    const u32 group = a.heads / a.cache.heads, tiles = ceil_div(group, HEADS);
    const u32 tile = blockIdx.y / slices % tiles;
    row = a.step.rows[blockIdx.z];
    slice = blockIdx.y % slices;
    key_head = blockIdx.y / slices / tiles;
    first_head = key_head * group + tile * HEADS;
    heads = group - tile * HEADS < HEADS ? group - tile * HEADS : HEADS;
    positions = row.position + 1;
    seen = first_seen(a, row.position);
    start = seen / PAGE;
    blocks = ceil_div(positions, PAGE);
  }

  // Whether a thread of a block stands for a position that is seen.
  DEVICE bool sees(u32 position) const { return position >= seen && position < positions; }

  DEVICE u32 page(const AttendArgs& a, u32 block) const { return a.step.pages[row.table + block]; }
};

// The i-th of a row's numbers for one query head, in an array [row][head][...].
DEVICE u64 of_head(const AttendArgs& a, u32 head) { return static_cast<u64>(blockIdx.z) * a.heads + head; }

// A thread is a position.
KERNEL(scores, AttendArgs, ATTEND_THREADS) {
  SHARED(float, q, HEADS * MAX_DIM);
  SHARED(float, peaks, HEADS * (ATTEND_THREADS / 32));
  previous_wait();
  if (blockIdx.z >= *a.step.count) return;
  const Part part(a, 1);
  if (part.start + blockIdx.x >= part.blocks) return;
  const u32 t = threadIdx.x, dim = a.cache.dim, chunks = ceil_div(dim, 8);
  for (u32 i = t; i < HEADS * chunks * 8; i += blockDim.x) {
    const u32 head = i / (chunks * 8), e = i % (chunks * 8);
    float x = 0.0f;
    if (head < part.heads && e < dim) {
      x = widen_one(a.q[static_cast<u64>(blockIdx.z) * padded(a.heads * dim) + (part.first_head + head) * dim + e]);
    }
    q[i] = x;
  }
  barrier();
  for (u32 block = part.start + blockIdx.x; block < part.blocks; block += gridDim.x) {
    const u32 position = block * PAGE + t;
    const u32 page = part.page(a, block);
    float total[HEADS], acc[HEADS];
#pragma unroll
    for (u32 h = 0; h < HEADS; ++h) total[h] = acc[h] = 0.0f;
    if (part.sees(position)) {
#pragma unroll 2
      for (u32 c = 0; c < chunks; ++c) {
        const Eight k = widen(*reinterpret_cast<const uint4*>(a.cache.key(page, part.key_head, c) + t * 8));
#pragma unroll
        for (u32 h = 0; h < HEADS; ++h) {
          const float* x = q + (h * chunks + c) * 8;
          const float4 low = load_shared(x), high = load_shared(x + 4);
          float sum = acc[h];
          sum = fmaf(low.x, k.v[0], sum);
          sum = fmaf(low.y, k.v[1], sum);
          sum = fmaf(low.z, k.v[2], sum);
          sum = fmaf(low.w, k.v[3], sum);
          sum = fmaf(high.x, k.v[4], sum);
          sum = fmaf(high.y, k.v[5], sum);
          sum = fmaf(high.z, k.v[6], sum);
          sum = fmaf(high.w, k.v[7], sum);
          acc[h] = sum;
        }
        if (c % 16 == 15 || c + 1 == chunks) {
#pragma unroll
          for (u32 h = 0; h < HEADS; ++h) {
            total[h] += acc[h];
            acc[h] = 0.0f;
          }
        }
      }
    }
#pragma unroll
    for (u32 h = 0; h < HEADS; ++h) {
      float peak = as_float(0xff800000u);
      if (part.sees(position) && h < part.heads) {
        peak = total[h] * a.scale;
        a.scores[of_head(a, part.first_head + h) * a.blocks * PAGE + position] = peak;
      }
#pragma unroll
      for (u32 mask = 16; mask > 0; mask /= 2) peak = fmaxf(peak, shuffle_xor(peak, mask));
      if (t % 32 == 0) peaks[h * (ATTEND_THREADS / 32) + t / 32] = peak;
    }
    barrier();
    if (t < part.heads) {
      float peak = peaks[t * (ATTEND_THREADS / 32)];
      for (u32 w = 1; w < ATTEND_THREADS / 32; ++w) peak = fmaxf(peak, peaks[t * (ATTEND_THREADS / 32) + w]);
      a.peaks[of_head(a, part.first_head + t) * a.blocks + block] = peak;
    }
    if (block + gridDim.x < part.blocks) barrier();
  }
}

// Sums of one block for `N` heads from `head` on, elements e and e + 1 of the slice.
template <u32 N>
DEVICE void weigh(const AttendArgs& a, const Part& part, u32 block, u32 from, u32 here, u32 head, u32 e,
                  const u16* tile, const float* weights) {
  float x[N], y[N];
#pragma unroll
  for (u32 h = 0; h < N; ++h) x[h] = y[h] = 0.0f;
#pragma unroll 8
  for (u32 j = from; j < here; ++j) {
    const float2 v = widen(*reinterpret_cast<const u32*>(tile + j * SLICE + e));
#pragma unroll
    for (u32 h = 0; h < N; ++h) {
      const float p = weights[(head + h) * PAGE + j];
      x[h] = fmaf(p, v.x, x[h]);
      y[h] = fmaf(p, v.y, y[h]);
    }
  }
#pragma unroll
  for (u32 h = 0; h < N; ++h) {
    if (head + h >= part.heads) return;
    const u64 at = of_head(a, part.first_head + head + h) * a.blocks + block;
    float* out = a.parts + at * padded(a.cache.dim) + part.slice * SLICE + e;
    out[0] = x[h];
    out[1] = y[h];
  }
}

// First a thread is a position, then two elements of a slice of some heads.
KERNEL(values, AttendArgs, ATTEND_THREADS) {
  SHARED(u16, tile, PAGE * SLICE);
  SHARED(float, weights, HEADS * PAGE);
  SHARED(float, peaks, HEADS);
  previous_wait();
  if (blockIdx.z >= *a.step.count) return;
  const u32 t = threadIdx.x, dim = a.cache.dim;
  const Part part(a, ceil_div(dim, SLICE));
  if (part.start + blockIdx.x >= part.blocks) return;
  const u32 first = part.slice * SLICE, wide = dim - first < SLICE ? dim - first : SLICE, chunks = ceil_div(wide, 8);

  // A warp at a time finds the greatest score of a head.
  for (u32 h = t / 32; h < part.heads; h += ATTEND_THREADS / 32) {
    float peak = as_float(0xff800000u);
    for (u32 b = part.start + t % 32; b < part.blocks; b += 32) {
      peak = fmaxf(peak, a.peaks[of_head(a, part.first_head + h) * a.blocks + b]);
    }
#pragma unroll
    for (u32 mask = 16; mask > 0; mask /= 2) peak = fmaxf(peak, shuffle_xor(peak, mask));
    if (t % 32 == 0) peaks[h] = peak;
  }
  barrier();
  for (u32 block = part.start + blockIdx.x; block < part.blocks; block += gridDim.x) {
    const u32 rest = part.positions - block * PAGE, here = rest < PAGE ? rest : PAGE;
    const u32 from = block == part.start ? part.seen % PAGE : 0;
    const u32 page = part.page(a, block);
    for (u32 i = from * chunks + t; i < here * chunks; i += blockDim.x) {
      const u32 slot = i / chunks, c = i % chunks;
      copy_async(tile + slot * SLICE + c * 8, a.cache.value(page, part.key_head, slot) + first + c * 8);
    }
    for (u32 h = 0; h < part.heads; ++h) {
      if (t >= from && t < here) {
        const float s = a.scores[of_head(a, part.first_head + h) * a.blocks * PAGE + block * PAGE + t];
        weights[h * PAGE + t] = canon_exp(s - peaks[h]);
      }
    }
    copies_wait();
    barrier();
    if (part.slice == 0 && t < part.heads) {
      float sum = 0.0f;
      for (u32 j = from; j < here; ++j) sum += weights[t * PAGE + j];
      a.sums[of_head(a, part.first_head + t) * a.blocks + block] = sum;
    }
    if (wide <= SLICE / 2) {
      const u32 e = t % 32 * 2, head = t / 32 * (HEADS / 4);
      if (e < wide) weigh<HEADS / 4>(a, part, block, from, here, head, e, tile, weights);
    } else {
      const u32 e = t % 64 * 2, head = t / 64 * (HEADS / 2);
      if (e < wide) weigh<HEADS / 2>(a, part, block, from, here, head, e, tile, weights);
    }
    if (block + gridDim.x < part.blocks) barrier();
  }
}

// One block of threads a query head and row.
KERNEL(combine, AttendArgs, ATTEND_THREADS) {
  previous_wait();
  const u32 head = blockIdx.x, dim = a.cache.dim;
  if (blockIdx.z >= *a.step.count) return;
  const u32 position = a.step.rows[blockIdx.z].position;
  const u32 start = first_seen(a, position) / PAGE, blocks = ceil_div(position + 1, PAGE);
  const u64 at = of_head(a, head) * a.blocks;
  float sum = 0.0f;
  for (u32 b = start; b < blocks; ++b) sum += a.sums[at + b];
  bool finite = true;
  for (u32 e = threadIdx.x; e < dim; e += blockDim.x) {
    const float* parts = a.parts + at * padded(dim) + e;
    float total = parts[static_cast<u64>(start) * padded(dim)];
    for (u32 b = start + 1; b < blocks; ++b) total += parts[static_cast<u64>(b) * padded(dim)];
    a.out[static_cast<u64>(blockIdx.z) * padded(a.heads * dim) + head * dim + e] = store(divide(total, sum), finite);
  }
  if (!finite) a.step.bad[blockIdx.z] = 1;
}
