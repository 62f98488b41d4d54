// Shapes in device memory, and the argument of each kernel. worker/src/cuda/args.rs has the same structs.
//
// A half is its bits, u16. Rows of activations begin at multiples of 8 elements; what pads them is zero and stays zero.
#pragma once
#include "device.cuh"

// Positions of a page, which is also a block of attention.
constexpr u32 PAGE = 128;
// Most elements of a head.
constexpr u32 MAX_DIM = 512;

DEVICE u32 padded(u32 n) { return (n + 7) & ~7u; }
DEVICE u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }

// A weight matrix: groups of 8 rows; in a group, chunks of 8 columns; a chunk is 8 rows of 8 halves, 128 bytes. Chunks
// are ordered so that those which a block of threads reads at once lie side by side: the first chunk of every block of
// 128 columns, then the second of every block, and so on; the last block may have fewer.
struct Matrix {
  const uint4* data;
  u32 rows;
  u32 cols;

  DEVICE u32 groups() const { return ceil_div(rows, 8); }
  DEVICE u32 chunks() const { return ceil_div(cols, 8); }
  DEVICE u32 blocks() const { return ceil_div(cols, 128); }
  // Chunks of the given block.
  DEVICE u32 chunks_of(u32 block) const {
    const u32 rest = chunks() - 16 * block;
    return rest < 16 ? rest : 16;
  }
  // Chunk `c` of a block, of one row.
  DEVICE const uint4* at(u32 row, u32 block, u32 c) const {
    const u32 all = blocks(), last = chunks() - 16 * (all - 1);
    const u32 chunk = c < last ? c * all + block : last * all + (c - last) * (all - 1) + block;
    return data + (static_cast<u64>(row / 8) * chunks() + chunk) * 8 + row % 8;
  }
};

// A row of a step is one token at one position of one sequence. `table` is where in Step::pages its sequence begins.
struct Row {
  u32 token;
  u32 position;
  u32 table;
};

// What a step works on. A launch may cover more rows than there are.
struct Step {
  const u32* count;
  const Row* rows;
  const u32* pages;
  // Set for a row when one of its stores was not finite.
  u32* bad;
};

// Keys and values of one layer. Keys: [page][head][ceil(dim / 8)][PAGE][8]; values: [page][head][PAGE][padded(dim)].
struct Cache {
  u16* keys;
  u16* values;
  u32 heads;
  u32 dim;

  // Chunk `c` of the keys of a page.
  DEVICE u16* key(u32 page, u32 head, u32 c) const {
    return keys + ((static_cast<u64>(page) * heads + head) * ceil_div(dim, 8) + c) * PAGE * 8;
  }
  DEVICE u16* value(u32 page, u32 head, u32 slot) const {
    return values + ((static_cast<u64>(page) * heads + head) * PAGE + slot) * padded(dim);
  }
};

struct EmbedArgs {
  Step step;
  Matrix table;
  float* h;
};

struct NormArgs {
  Step step;
  const float* h;
  const u16* gain;
  u16* x;
  u32 width;
  float eps;
};

// What every product has: y = w x. `wave` is how many blocks of columns a block of threads takes at once (decoding).
struct Product {
  Step step;
  Matrix w;
  const u16* x;
  u32 wave;
  u32 unused;
};

// Where queries, keys and values go.
struct Heads {
  // [position][dim / 2] of cos and sin.
  const float2* rope;
  u16* q;
  Cache cache;
  u32 heads;
  u32 unused;
};

// Rows of w: for each query head, then each key head, element 0, element dim / 2, element 1, ...; then the values.
struct QkvArgs {
  Product product;
  // In the order of w's rows, or null.
  const u16* bias;
  Heads to;
};

// Heads of q and k that are normalised: y is [row][rows of QkvArgs's w], as it comes out of the product.
struct HeadNormArgs {
  Step step;
  const float* y;
  // In the order of y's rows, or null.
  const u16* bias;
  // [dim], in the order of a head's elements.
  const u16* q_gain;
  const u16* k_gain;
  Heads to;
  float eps;
  u32 unused;
};

struct ResidualArgs {
  Product product;
  float* h;
};

// Rows of w: gate 0, up 0, gate 1, up 1, ...
struct GateArgs {
  Product product;
  u16* a;
};

// y is [row][w.rows].
struct LogitsArgs {
  Product product;
  float* y;
};

struct AttendArgs {
  Step step;
  Cache cache;
  const u16* q;
  // [row][head][blocks * PAGE]
  float* scores;
  // [row][head][blocks]: each block's greatest score and sum of weights
  float* peaks;
  float* sums;
  // [row][head][blocks][padded(dim)]
  float* parts;
  u16* out;
  u32 heads;
  // Most blocks of positions that a sequence may have.
  u32 blocks;
  float scale;
  // Positions that a query sees, its own among them.
  u32 window;
};

// How one row's token is chosen. Temperature 0 with top_k 1 is the greatest logit.
struct Choice {
  float temperature;
  float top_p;
  u32 top_k;
  u32 step;
  u32 key[2];
};

struct SampleArgs {
  const u32* count;
  const Choice* choices;
  // [row][vocab]
  const float* logits;
  // [row][slice][MAX_TOP_K]
  u64* candidates;
  u32* tokens;
  u32 vocab;
  u32 unused;
};
