// Products for few rows: each weight is read once, from memory straight into a lane's registers.
//
// A lane owns one row of the matrix and one block of 128 columns, and sums it for all T rows of the step. Neighbouring
// lanes are 8 rows, then blocks, so that a warp reads 512 bytes that lie together. Block sums meet in shared memory and
// are added in ascending order.
#pragma once
#include "finish.cuh"

constexpr u32 DECODE_THREADS = 256;
// Most groups of 8 rows of the matrix that a block of threads takes.
constexpr u32 DECODE_GROUPS = 8;

template <u32 T>
struct Decode {
  // Columns of a block whose activations are in shared memory at a time, for at most WAVE blocks.
  static constexpr u32 SPAN = T <= 8 ? 128 : 64;
  static constexpr u32 WAVE = T <= 2 ? 32 : T == 4 ? 16 : T <= 16 ? 8 : 4;
  // Blocks are read side by side; four more elements keep them in different banks.
  static constexpr u32 PITCH = SPAN + 4;
  // Chunks of weights under way for each lane.
  static constexpr u32 DEPTH = T <= 2 ? 16 : T == 4 ? 8 : T == 8 ? 4 : 2;
  static constexpr u32 SUMS = DECODE_THREADS * T;
  static constexpr u32 WORK = T * WAVE * PITCH > SUMS ? T * WAVE * PITCH : SUMS;
  static constexpr u32 TOTALS = T * DECODE_GROUPS * 8;
};

// Launched with 8 * wave * (groups of 8 rows a block of threads) threads.
template <u32 T, class Finish>
DEVICE void decode(const Product& p, const Finish& finish, float* work, float2* totals) {
  typedef Decode<T> D;
  const Matrix& w = p.w;
  const u32 wave = p.wave, t = threadIdx.x, threads = blockDim.x;
  const u32 mine = t / 8 % wave, rows = threads / wave, my_row = t / (8 * wave) * 8 + t % 8;
  const u32 first_row = blockIdx.x * rows, row = first_row + my_row, blocks = w.blocks();
  const u32 width = padded(w.cols);
  u32 count = 0;

  for (u32 first = 0; first < blocks; first += wave) {
    const u32 block = first + mine;
    const u32 chunks = row < w.groups() * 8 && block < blocks ? w.chunks_of(block) : 0;
    const auto fetch = [&](uint4(&to)[D::DEPTH], u32 c) {
#pragma unroll
      for (u32 i = 0; i < D::DEPTH; ++i) to[i] = c + i < chunks ? *w.at(row, block, c + i) : uint4{0, 0, 0, 0};
    };
    float acc[T];
#pragma unroll
    for (u32 s = 0; s < T; ++s) acc[s] = 0.0f;

#pragma unroll 1
    for (u32 k = 0; k < BLOCK; k += D::SPAN) {
      uint4 next[D::DEPTH];
      fetch(next, k / 8);
      if (first == 0 && k == 0) {
        // Weights are no other kernel's work: they are under way before it has ended.
        previous_wait();
        count = *p.step.count;
      }
      for (u32 i = t; i < T * wave * (D::SPAN / 8); i += threads) {
        const u32 c = i % (D::SPAN / 8), b = i / (D::SPAN / 8) % wave, s = i / (D::SPAN / 8) / wave;
        const u32 column = (first + b) * BLOCK + k + c * 8;
        uint4 x = {0, 0, 0, 0};
        if (s < count && column < width) x = *reinterpret_cast<const uint4*>(p.x + static_cast<u64>(s) * width + column);
        const Eight e = widen(x);
        float4* to = reinterpret_cast<float4*>(work + (s * wave + b) * D::PITCH + c * 8);
        to[0] = {e.v[0], e.v[1], e.v[2], e.v[3]};
        to[1] = {e.v[4], e.v[5], e.v[6], e.v[7]};
      }
      barrier();
#pragma unroll 1
      for (u32 c = 0; c < D::SPAN / 8; c += D::DEPTH) {
        uint4 now[D::DEPTH];
#pragma unroll
        for (u32 i = 0; i < D::DEPTH; ++i) now[i] = next[i];
        if (c + D::DEPTH < D::SPAN / 8) fetch(next, k / 8 + c + D::DEPTH);
#pragma unroll
        for (u32 i = 0; i < D::DEPTH; ++i) {
          const Eight e = widen(now[i]);
#pragma unroll
          for (u32 s = 0; s < T; ++s) {
            const float* x = work + (s * wave + mine) * D::PITCH + (c + i) * 8;
            const float4 low = load_shared(x), high = load_shared(x + 4);
            float sum = acc[s];
            sum = fmaf(low.x, e.v[0], sum);
            sum = fmaf(low.y, e.v[1], sum);
            sum = fmaf(low.z, e.v[2], sum);
            sum = fmaf(low.w, e.v[3], sum);
            sum = fmaf(high.x, e.v[4], sum);
            sum = fmaf(high.y, e.v[5], sum);
            sum = fmaf(high.z, e.v[6], sum);
            sum = fmaf(high.w, e.v[7], sum);
            acc[s] = sum;
          }
        }
      }
      barrier();
    }

#pragma unroll
    for (u32 s = 0; s < T; ++s) work[(s * wave + mine) * rows + my_row] = acc[s];
    barrier();
    const u32 here = blocks - first < wave ? blocks - first : wave;
    for (u32 i = t; i < T * rows / 2; i += threads) {
      const u32 s = i / (rows / 2), pair = i % (rows / 2);
      float2 total = {0.0f, 0.0f};
      if (first != 0) total = totals[i];
      for (u32 b = 0; b < here; ++b) {
        const float2 sum = *reinterpret_cast<const float2*>(work + (s * wave + b) * rows + pair * 2);
        total.x = first + b == 0 ? sum.x : total.x + sum.x;
        total.y = first + b == 0 ? sum.y : total.y + sum.y;
      }
      if (first + wave < blocks) {
        totals[i] = total;
      } else if (s < count) {
        finish(s, first_row + pair * 2, total.x, total.y);
      }
    }
    if (first + wave < blocks) barrier();
  }
}

#define DECODE_KERNEL(name, T, Args, Finish, product)       \
  KERNEL(name##_##T, Args, DECODE_THREADS) {                \
    SHARED(float, work, Decode<T>::WORK);                   \
    SHARED(float2, totals, Decode<T>::TOTALS / 2);          \
    decode<T>(product, Finish{a}, work, totals);            \
  }
