// A launch on the emulator, and what running kernels ask of it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

struct Index {
  unsigned x, y, z;
};

// A place in the sources where threads wait.
struct Site {
  const char* file;
  uint32_t line;
};

// A kernel, in the list of all.
struct Entry {
  const char* name;
  size_t args;
  void (*run)(const void* args);
  Entry* next;

  Entry(const char* name, size_t args, void (*run)(const void*));
};
const Entry* find(const char* name);

// Who runs next, where several could.
enum Order : uint32_t { FORWARD, REVERSE, RANDOM, GREEDY_WARPS };

struct Launch {
  uint32_t grid[3];
  uint32_t threads;
  const void* args;
  Order order;
  uint32_t seed;
  // Asynchronous copies land at once instead of at the wait for them.
  uint32_t eager_copies;
  // A wait that is left out; no file: none.
  Site skipped;
};

// Runs one launch; answers an empty text, or why it cannot go on. Adds to `seen` the places where the kernel waits.
std::string run(const Entry& entry, const Launch& launch, std::vector<Site>& seen);

// For the thread that runs: where it is, and its waits.
const Index& thread();
const Index& block();
const Index& threads();
const Index& blocks();
void* shared(size_t bytes);
void wait_for_block(Site site);
uint64_t exchange(uint64_t value, unsigned mask, Site site);
void copy_async(void* to, const void* from);
void wait_for_copies(Site site);

// f32 of each f16, by its bits; and f16 of an f32, to nearest, ties to even.
extern const float* const halves;
uint16_t half_of(float x);

}  // namespace emulator
