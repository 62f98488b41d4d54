// What happens to the sums of a product. A finisher gets rows r and r + 1 of the product, r even, of one row of the step.
#pragma once
#include "canon.cuh"
#include "layout.cuh"

// Turns a pair of q or k, and stores a pair of q, k or v: rows r and r + 1 of their product.
DEVICE void store_heads(const Step& step, const Heads& to, u32 row, u32 r, float x, float y) {
  const u32 dim = to.cache.dim, q_rows = to.heads * dim, kv_rows = to.cache.heads * dim;
  const Row at = step.rows[row];
  const u32 page = step.pages[at.table + at.position / PAGE], slot = at.position % PAGE;
  bool finite = true;
  if (r < q_rows + kv_rows) {
    const u32 head = r / dim, i = r % dim / 2, half = dim / 2;
    rope(x, y, to.rope[static_cast<u64>(at.position) * half + i]);
    const u16 low = store(x, finite), high = store(y, finite);
    if (r < q_rows) {
      u16* q = to.q + static_cast<u64>(row) * padded(q_rows) + head * dim;
      q[i] = low;
      q[half + i] = high;
    } else {
      to.cache.key(page, head - to.heads, i / 8)[slot * 8 + i % 8] = low;
      to.cache.key(page, head - to.heads, (half + i) / 8)[slot * 8 + (half + i) % 8] = high;
    }
  } else {
    const u32 head = (r - q_rows - kv_rows) / dim, e = (r - q_rows - kv_rows) % dim;
    u16* v = to.cache.value(page, head, slot);
    v[e] = store(x, finite);
    v[e + 1] = store(y, finite);
  }
  if (!finite) step.bad[row] = 1;
}

// Biases, rotation, and the stores of q, k and v.
struct QkvFinish {
  const QkvArgs& a;

  DEVICE void operator()(u32 row, u32 r, float x, float y) const {
    if (r >= a.product.w.rows) return;
    if (a.bias) {
      x += widen_one(a.bias[r]);
      y += widen_one(a.bias[r + 1]);
    }
    store_heads(a.product.step, a.to, row, r, x, y);
  }
};

// Added to the residual stream.
struct ResidualFinish {
  const ResidualArgs& a;

  DEVICE void operator()(u32 row, u32 r, float x, float y) const {
    const u32 rows = a.product.w.rows;
    float* h = a.h + static_cast<u64>(row) * padded(rows);
    if (r < rows) h[r] += x;
    if (r + 1 < rows) h[r + 1] += y;
  }
};

// silu(gate) * up.
struct GateFinish {
  const GateArgs& a;

  DEVICE void operator()(u32 row, u32 r, float x, float y) const {
    if (r >= a.product.w.rows) return;
    bool finite = true;
    a.a[static_cast<u64>(row) * padded(a.product.w.rows / 2) + r / 2] = store(silu_gate(x, y), finite);
    if (!finite) a.product.step.bad[row] = 1;
  }
};

struct LogitsFinish {
  const LogitsArgs& a;

  DEVICE void operator()(u32 row, u32 r, float x, float y) const {
    const u32 rows = a.product.w.rows;
    float* out = a.y + static_cast<u64>(row) * rows;
    if (r < rows) out[r] = x;
    if (r + 1 < rows) out[r + 1] = y;
  }
};
