// What the kernels know of the machine: nvcc's, or the emulator's on a CPU. Everything else is plain C++17.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#if defined(__CUDACC__)

#include <cuda_fp16.h>

#define DEVICE __device__ __forceinline__
#define TABLE __device__ constexpr

// A kernel with one argument, `a`, and at most `threads` threads a block.
#define KERNEL(name, Args, threads) extern "C" __global__ void __launch_bounds__(threads) name(const Args a)

// An array that the block shares; declared at the top of a kernel, before any branch.
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]

#define barrier() __syncthreads()
#define shuffle_xor(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)

// 16 aligned bytes of shared memory. By its instruction: from plain loads nvcc makes whole ones or pieces, not the same in
// every run, and what is committed could not be compared.
DEVICE float4 load_shared(const float* from) {
  float4 x;
  const u32 shared = static_cast<u32>(__cvta_generic_to_shared(from));
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(shared) : "memory");
  return x;
}

// Starts a copy of 16 aligned bytes into shared memory. It has landed, for this thread, after copies_wait().
DEVICE void copy_async(void* to, const void* from) {
  const u32 shared = static_cast<u32>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
}
#define copies_wait() asm volatile("cp.async.wait_all;" ::: "memory")

// Launches overlap on Hopper: the next kernel may start while this one runs. Nothing that an earlier kernel wrote may be
// read, and nothing at all written, before previous_wait(). Earlier cards have no overlap and need no wait.
DEVICE void previous_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE float2 widen(u32 halves) { return __half22float2(*reinterpret_cast<const __half2*>(&halves)); }
DEVICE u16 narrow(float x) { return __half_as_ushort(__float2half_rn(x)); }
DEVICE float as_float(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 as_bits(float x) { return __float_as_uint(x); }
DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
DEVICE float square_root(float x) { return __fsqrt_rn(x); }

#else
#include "emulator.hpp"
#endif

DEVICE float widen_one(u16 half) { return widen(half).x; }

// The eight halves of 16 bytes.
struct Eight {
  float v[8];
};
DEVICE Eight widen(const uint4& halves) {
  const float2 a = widen(halves.x), b = widen(halves.y), c = widen(halves.z), d = widen(halves.w);
  return {{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
}
