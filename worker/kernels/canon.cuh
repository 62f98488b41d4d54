// The scalar operations of canon/1. The names and the order are those of worker/src/canon/ops.rs.
#pragma once
#include "constants.cuh"
#include "device.cuh"

// Rounds to f16. What is not finite becomes +0 and clears `finite`.
DEVICE u16 store(float x, bool& finite) {
  const u16 half = narrow(x);
  if ((half & 0x7c00) != 0x7c00) return half;
  finite = false;
  return 0;
}

DEVICE float canon_exp(float x) {
  if (x < as_float(EXP_MIN)) return 0.0f;
  if (x > as_float(EXP_MAX)) x = as_float(EXP_MAX);
  const float n = rintf(x * as_float(LOG2E));
  float r = fmaf(n, -as_float(LN2_HI), x);
  r = fmaf(n, -as_float(LN2_LO), r);
  float p = as_float(EXP[0]);
#pragma unroll
  for (int i = 1; i < 7; ++i) p = fmaf(p, r, as_float(EXP[i]));
  return as_float(as_bits(p) + (static_cast<u32>(static_cast<int>(n)) << 23));
}

// Of a positive normal number.
DEVICE float canon_log(float x) {
  const u32 bits = as_bits(x) + (0x3f800000u - LOG_SPLIT);
  const float e = static_cast<float>(static_cast<int>(bits >> 23) - 127);
  const float m = as_float((bits & 0x007fffffu) + LOG_SPLIT);
  const float s = divide(m - 1.0f, m + 1.0f);
  const float s2 = s * s;
  float p = as_float(LOG[0]);
#pragma unroll
  for (int i = 1; i < 5; ++i) p = fmaf(p, s2, as_float(LOG[i]));
  return fmaf(e, as_float(LN2_HI), fmaf(e, as_float(LN2_LO), p * s));
}

DEVICE float silu_gate(float g, float u) { return divide(g, 1.0f + canon_exp(-g)) * u; }

// Turns the pair (a, b) by the angle whose cos and sin are in `turn`.
DEVICE void rope(float& a, float& b, float2 turn) {
  const float x = a, y = b;
  a = fmaf(x, turn.x, -(y * turn.y));
  b = fmaf(x, turn.y, y * turn.x);
}

// Word 0 of Philox4x32-10.
DEVICE u32 philox(u32 a, u32 b, u32 c, u32 d, u32 k0, u32 k1) {
  for (u32 round = 0; round < PHILOX_ROUNDS; ++round) {
    const u64 p = static_cast<u64>(PHILOX_M[0]) * a, q = static_cast<u64>(PHILOX_M[1]) * c;
    const u32 b_was = b, d_was = d;
    a = static_cast<u32>(q >> 32) ^ b_was ^ k0;
    b = static_cast<u32>(q);
    c = static_cast<u32>(p >> 32) ^ d_was ^ k1;
    d = static_cast<u32>(p);
    k0 += PHILOX_W[0];
    k1 += PHILOX_W[1];
  }
  return a;
}

DEVICE float gumbel(u32 word) {
  const float u = static_cast<float>(2 * (word >> 9) + 1) * as_float((127 - 24) << 23);
  return -canon_log(-canon_log(u));
}
