// All kernels of the worker. A build for the card and one for the emulator read this same file.
#include "attention.cuh"
#include "decode.cuh"
#include "norm.cuh"
#include "prefill.cuh"
#include "sample.cuh"

#define DECODE_PRODUCTS(T)                                            \
  DECODE_KERNEL(qkv, T, QkvArgs, QkvFinish, a.product)                \
  DECODE_KERNEL(residual, T, ResidualArgs, ResidualFinish, a.product) \
  DECODE_KERNEL(gate, T, GateArgs, GateFinish, a.product)             \
  DECODE_KERNEL(logits, T, LogitsArgs, LogitsFinish, a.product)

DECODE_PRODUCTS(1)
DECODE_PRODUCTS(2)
DECODE_PRODUCTS(4)
DECODE_PRODUCTS(8)
DECODE_PRODUCTS(16)
DECODE_PRODUCTS(32)

PREFILL_KERNEL(qkv, QkvArgs, QkvFinish, a.product)
PREFILL_KERNEL(residual, ResidualArgs, ResidualFinish, a.product)
PREFILL_KERNEL(gate, GateArgs, GateFinish, a.product)
PREFILL_KERNEL(logits, LogitsArgs, LogitsFinish, a.product)
