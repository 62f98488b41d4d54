// A CUDA device of one core, for host compilers: what device.cuh of the kernels needs, and nothing more.
//
// Each thread of a block is a fiber; blocks run one after another. A fiber runs until it waits for others, so the
// schedule decides only who goes first, and that is what a forgotten barrier is found by. Shared memory is filled with
// NaN before each block, so that nothing is left over from the block before.
#pragma once
#include <cmath>
#include <cstring>

#include "launch.hpp"

#define DEVICE inline
#define TABLE constexpr

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace emulator {

template <class T>
T shuffle_xor(T value, unsigned mask, Site site) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = exchange(bits, mask, site);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulator

#define KERNEL(name, Args, threads)                                                                \
  static void name(const Args& a);                                                                 \
  static emulator::Entry name##_entry(#name, sizeof(Args),                                         \
                                      [](const void* args) { name(*static_cast<const Args*>(args)); }); \
  static void name(const Args& a)

#define SHARED(type, name, count) type* const name = static_cast<type*>(emulator::shared(sizeof(type) * (count)))

#define EMULATOR_SITE (emulator::Site{__FILE__, __LINE__})
#define barrier() emulator::wait_for_block(EMULATOR_SITE)
#define shuffle_xor(value, mask) emulator::shuffle_xor(value, mask, EMULATOR_SITE)
#define copies_wait() emulator::wait_for_copies(EMULATOR_SITE)

#define threadIdx (emulator::thread())
#define blockIdx (emulator::block())
#define blockDim (emulator::threads())
#define gridDim (emulator::blocks())

inline float4 load_shared(const float* from) { return *reinterpret_cast<const float4*>(from); }
inline void copy_async(void* to, const void* from) { emulator::copy_async(to, from); }
inline void previous_wait() {}

inline float2 widen(u32 two) { return {emulator::halves[two & 0xffff], emulator::halves[two >> 16]}; }
inline u16 narrow(float x) { return emulator::half_of(x); }
inline float as_float(u32 bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
inline u32 as_bits(float x) {
  u32 bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float divide(float a, float b) { return a / b; }
inline float square_root(float x) { return sqrtf(x); }
