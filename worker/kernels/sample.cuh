// From logits to tokens: every slice of the vocabulary lists its greatest, then the lists are merged and one is drawn.
#pragma once
#include "canon.cuh"
#include "layout.cuh"

constexpr u32 MAX_TOP_K = 64;
constexpr u32 TOP_THREADS = 256;
constexpr u32 SLICE_LOGITS = 1024;
// One list a thread: vocabularies of up to 2^20 tokens.
constexpr u32 CHOOSE_THREADS = 1024;

// Greater for a greater logit, and of equals for a lower id; never 0.
DEVICE u64 rank(float logit, u32 id) {
  const u32 bits = as_bits(logit);
  return static_cast<u64>(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | ~id;
}
DEVICE u32 rank_id(u64 rank) { return ~static_cast<u32>(rank); }
DEVICE float rank_logit(u64 rank) {
  const u32 bits = static_cast<u32>(rank >> 32);
  return as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

// The greatest of the block's values, for all threads. `scratch` holds two values a warp; `round` counts the calls:
// a call writes what the call before the last one read.
DEVICE u64 greatest(u64 value, u64* scratch, u32 round) {
  const u32 warps = blockDim.x / 32;
#pragma unroll
  for (u32 mask = 16; mask > 0; mask /= 2) {
    const u64 other = shuffle_xor(value, mask);
    if (other > value) value = other;
  }
  u64* mine = scratch + round % 2 * warps;
  if (threadIdx.x % 32 == 0) mine[threadIdx.x / 32] = value;
  barrier();
  for (u32 w = 0; w < warps; ++w) {
    if (mine[w] > value) value = mine[w];
  }
  return value;
}

// Grid (slices, rows): the top_k greatest logits of a slice, falling; 0 where there are no more.
KERNEL(top, SampleArgs, TOP_THREADS) {
  SHARED(u64, scratch, 2 * TOP_THREADS / 32);
  previous_wait();
  const u32 row = blockIdx.y, t = threadIdx.x;
  if (row >= *a.count) return;
  u64 mine[SLICE_LOGITS / TOP_THREADS];
#pragma unroll
  for (u32 i = 0; i < SLICE_LOGITS / TOP_THREADS; ++i) {
    const u32 id = blockIdx.x * SLICE_LOGITS + i * TOP_THREADS + t;
    mine[i] = id < a.vocab ? rank(a.logits[static_cast<u64>(row) * a.vocab + id], id) : 0;
  }
  u64* list = a.candidates + (static_cast<u64>(row) * gridDim.x + blockIdx.x) * MAX_TOP_K;
  const u32 k = a.choices[row].top_k;
  for (u32 n = 0; n < k; ++n) {
    u64 best = 0;
#pragma unroll
    for (u32 i = 0; i < SLICE_LOGITS / TOP_THREADS; ++i) {
      if (mine[i] > best) best = mine[i];
    }
    best = greatest(best, scratch, n);
#pragma unroll
    for (u32 i = 0; i < SLICE_LOGITS / TOP_THREADS; ++i) {
      if (mine[i] == best) mine[i] = 0;
    }
    if (t == 0) list[n] = best;
  }
}

// Grid (rows): merges the lists of a row and draws.
KERNEL(choose, SampleArgs, CHOOSE_THREADS) {
  SHARED(u64, scratch, 2 * CHOOSE_THREADS / 32);
  SHARED(u64, kept, MAX_TOP_K);
  SHARED(float, weights, MAX_TOP_K);
  SHARED(float, scores, MAX_TOP_K);
  previous_wait();
  const u32 row = blockIdx.x, t = threadIdx.x, slices = ceil_div(a.vocab, SLICE_LOGITS);
  if (row >= *a.count) return;
  const Choice choice = a.choices[row];
  const u64* list = a.candidates + (static_cast<u64>(row) * slices + t) * MAX_TOP_K;
  const u32 k = choice.top_k < a.vocab ? choice.top_k : a.vocab;
  u32 next = 0;
  for (u32 n = 0; n < k; ++n) {
    const u64 mine = t < slices && next < k ? list[next] : 0;
    const u64 best = greatest(mine, scratch, n);
    if (mine == best) ++next;
    if (t == 0) kept[n] = best;
  }
  if (choice.temperature == 0.0f) {
    if (t == 0) a.tokens[row] = rank_id(kept[0]);
    return;
  }
  barrier();
  if (t < k) {
    const float logit = rank_logit(kept[t]);
    weights[t] = canon_exp(divide(logit - rank_logit(kept[0]), choice.temperature));
    const u32 word = philox(choice.step, rank_id(kept[t]), 0, 0, choice.key[0], choice.key[1]);
    scores[t] = divide(logit, choice.temperature) + gumbel(word);
  }
  barrier();
  if (t != 0) return;
  float all = 0.0f;
  for (u32 i = 0; i < k; ++i) all += weights[i];
  const float wanted = choice.top_p * all;
  float sum = 0.0f, best = as_float(0xff800000u);
  u32 token = 0xffffffffu;
  for (u32 i = 0; i < k; ++i) {
    const u32 id = rank_id(kept[i]);
    if (scores[i] > best || (scores[i] == best && id < token)) {
      best = scores[i];
      token = id;
    }
    sum += weights[i];
    if (sum >= wanted) break;
  }
  a.tokens[row] = token;
}
