// Stacks that take turns on one thread of the operating system.
#pragma once
#include <cstddef>

#if defined(__x86_64__) && defined(__unix__) && !defined(__APPLE__)
#define FIBER_BY_HAND 1
#else
#include <ucontext.h>
#endif

namespace emulator {

struct Fiber {
#ifdef FIBER_BY_HAND
  void* top = nullptr;
#else
  ucontext_t context;
#endif

  // Starts over: the next switch to it calls `entry`, which must never return.
  void start(unsigned char* stack, size_t size, void (*entry)());
  // Goes on with `to`; returns when somebody switches back.
  void switch_to(Fiber& to);
};

}  // namespace emulator
