#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "fiber.hpp"
#include "launch.hpp"

namespace emulator {

// ---------------------------------------------------------------- fibers

#ifdef FIBER_BY_HAND

// Saves what a call must keep, swaps stacks, and takes up the other's.
extern "C" void emulator_swap(void** save, void* load);
asm(R"(
  .text
  .p2align 4
  .globl emulator_swap
  .type emulator_swap, @function
emulator_swap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size emulator_swap, .-emulator_swap
)");

void Fiber::start(unsigned char* stack, size_t size, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + size / 16 * 16);
  *--top = nullptr;  // where entry would return to; it keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  this->top = top;
}

void Fiber::switch_to(Fiber& to) { emulator_swap(&top, to.top); }

#else

void Fiber::start(unsigned char* stack, size_t size, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

void Fiber::switch_to(Fiber& to) { swapcontext(&context, &to.context); }

#endif

// ---------------------------------------------------------------- halves

static std::array<float, 65536> widened() {
  std::array<float, 65536> table;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const unsigned exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                       : std::ldexp(static_cast<float>(1024 + mantissa), static_cast<int>(exponent) - 25);
    table[bits] = bits >> 15 ? -size : size;
  }
  return table;
}
static const std::array<float, 65536> table = widened();
const float* const halves = table.data();

uint16_t half_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return 0x7e00;
  if (size >= 0x477ff000) return sign | 0x7c00;  // 65520 and above
  if (size < 0x38800000) {
    // Subnormal: adding 1/2 leaves multiples of 2^-24 in the low bits, rounded as the addition rounds.
    float positive;
    memcpy(&positive, &size, sizeof positive);
    positive += 0.5f;
    uint32_t sum;
    memcpy(&sum, &positive, sizeof sum);
    return sign | (sum - 0x3f000000);
  }
  const uint32_t odd = size >> 13 & 1;
  return sign | ((size - 0x38000000 + 0xfff + odd) >> 13);
}

// ---------------------------------------------------------------- kernels

static Entry* first = nullptr;

Entry::Entry(const char* name, size_t args, void (*run)(const void*)) : name(name), args(args), run(run), next(first) {
  first = this;
}

const Entry* find(const char* name) {
  const Entry* entry = first;
  while (entry && strcmp(entry->name, name) != 0) entry = entry->next;
  return entry;
}

// ---------------------------------------------------------------- one block of threads

constexpr size_t STACK = 64 << 10;
constexpr size_t SHARED_MEMORY = 48 << 10;

struct Copy {
  void* to;
  const void* from;
};

struct Thread : Fiber {
  Index index;
  unsigned number = 0;
  bool done = false;
  // Where it waits, if it does.
  const char* wait = nullptr;
  size_t shared = 0;
  std::vector<Copy> copies;
};

// Lanes that exchange values. A round's values stay until the round after the next: none can begin that one before all
// have read this one's.
struct Warp {
  uint64_t values[2][32];
  unsigned arrived = 0;
  uint64_t round = 0;
  Site site{};
};

struct Device {
  const Entry& entry;
  const Launch& launch;
  std::vector<Site>& seen;
  Index grid{}, block{}, size{};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<std::vector<unsigned char>> stacks;
  std::vector<unsigned char> memory;
  Fiber scheduler;
  Thread* current = nullptr;
  unsigned arrived = 0;
  uint64_t round = 0;
  Site site{};
  bool progress = false;
  std::string error;

  Device(const Entry& entry, const Launch& launch, std::vector<Site>& seen) : entry(entry), launch(launch), seen(seen) {}
};

static thread_local Device* device = nullptr;

const Index& thread() { return device->current->index; }
const Index& block() { return device->block; }
const Index& threads() { return device->size; }
const Index& blocks() { return device->grid; }

static bool same(Site a, Site b) { return a.file == b.file && a.line == b.line; }

static void pause(const char* why) {
  Thread& me = *device->current;
  me.wait = why;
  me.switch_to(device->scheduler);
  me.wait = nullptr;
}

static void fail(const std::string& what, Site at) {
  if (device->error.empty()) device->error = what + " at " + at.file + ":" + std::to_string(at.line);
}

// Notes that a kernel waits here; whether this run leaves the wait out.
static bool skips(Site site) {
  std::vector<Site>& seen = device->seen;
  const Site skipped = device->launch.skipped;
  if (std::none_of(seen.begin(), seen.end(), [&](const Site& s) { return same(s, site); })) seen.push_back(site);
  return skipped.file && skipped.line == site.line && strcmp(skipped.file, site.file) == 0;
}

void* shared(size_t bytes) {
  Thread& me = *device->current;
  const size_t at = me.shared;
  me.shared += (bytes + 15) / 16 * 16;
  if (me.shared > SHARED_MEMORY) {
    fail("more than 48 KiB of shared memory", Site{device->entry.name, 0});
    for (;;) pause("shared memory that is not there");
  }
  return device->memory.data() + at;
}

void wait_for_block(Site site) {
  if (skips(site)) return;
  Device& d = *device;
  if (d.arrived == 0) d.site = site;
  if (!same(d.site, site)) fail("threads of one block are at different barriers, one", site);
  d.progress = true;
  const uint64_t round = d.round;
  if (++d.arrived == d.threads.size()) {
    d.arrived = 0;
    ++d.round;
    return;
  }
  while (d.round == round) pause("a barrier");
}

uint64_t exchange(uint64_t value, unsigned mask, Site site) {
  const unsigned number = device->current->number, lane = number % 32;
  Warp& warp = device->warps[number / 32];
  if (warp.arrived == 0) warp.site = site;
  if (!same(warp.site, site)) fail("lanes of one warp are at different shuffles, one", site);
  device->progress = true;
  const uint64_t round = warp.round;
  warp.values[round % 2][lane] = value;
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    ++warp.round;
  }
  while (warp.round == round) pause("a shuffle");
  return warp.values[round % 2][lane ^ mask];
}

void copy_async(void* to, const void* from) {
  if (device->launch.eager_copies) {
    memcpy(to, from, 16);
  } else {
    device->current->copies.push_back({to, from});
  }
}

void wait_for_copies(Site site) {
  if (skips(site)) return;
  for (const Copy& copy : device->current->copies) memcpy(copy.to, copy.from, 16);
  device->current->copies.clear();
}

static void run_thread() {
  Device& d = *device;
  d.entry.run(d.launch.args);
  d.current->done = true;
  d.progress = true;
  for (;;) d.current->switch_to(d.scheduler);
}

// Gives a thread its turn.
static void turn(Device& d, Thread& thread) {
  if (thread.done) return;
  d.current = &thread;
  d.scheduler.switch_to(thread);
}

static void run_block(Device& d, std::mt19937& random) {
  std::fill(d.memory.begin(), d.memory.end(), 0xff);
  for (Warp& warp : d.warps) warp = Warp();
  d.arrived = 0;
  for (unsigned i = 0; i < d.threads.size(); ++i) {
    Thread& t = d.threads[i];
    t.index = {i, 0, 0};
    t.number = i;
    t.done = false;
    t.wait = nullptr;
    t.shared = 0;
    t.copies.clear();
    t.start(d.stacks[i].data(), STACK, run_thread);
  }
  std::vector<unsigned> order(d.threads.size()), warps(d.warps.size());
  for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
  for (unsigned i = 0; i < warps.size(); ++i) warps[i] = i;
  if (d.launch.order == REVERSE) std::reverse(order.begin(), order.end());
  for (;;) {
    d.progress = false;
    switch (d.launch.order) {
      case RANDOM:
        std::shuffle(order.begin(), order.end(), random);
        [[fallthrough]];
      case FORWARD:
      case REVERSE:
        for (unsigned i : order) turn(d, d.threads[i]);
        break;
      case GREEDY_WARPS:
        // One warp runs as far as it can before another begins.
        std::shuffle(warps.begin(), warps.end(), random);
        for (unsigned w : warps) {
          bool any = false;
          do {
            any |= d.progress;
            d.progress = false;
            for (unsigned i = w * 32; i < w * 32 + 32 && i < d.threads.size(); ++i) turn(d, d.threads[i]);
          } while (d.progress);
          d.progress = any;
        }
        break;
    }
    if (!d.error.empty()) return;
    unsigned waiting = 0, ended = 0;
    const Thread* one = nullptr;
    for (const Thread& t : d.threads) {
      if (t.done) {
        ++ended;
      } else {
        ++waiting;
        one = &t;
      }
    }
    if (waiting == 0) return;
    if (!d.progress) {
      char text[200];
      snprintf(text, sizeof text, "deadlock: %u threads wait, thread %u for %s; %u have ended", waiting, one->number,
               one->wait ? one->wait : "nothing", ended);
      fail(text, d.site);
      return;
    }
  }
}

std::string run(const Entry& entry, const Launch& launch, std::vector<Site>& seen) {
  Device d(entry, launch, seen);
  d.grid = {launch.grid[0], launch.grid[1], launch.grid[2]};
  d.size = {launch.threads, 1, 1};
  d.threads.resize(launch.threads);
  d.warps.resize((launch.threads + 31) / 32);
  // Stacks are not cleared, and are kept for the next launch.
  static thread_local std::vector<std::vector<unsigned char>> stacks;
  while (stacks.size() < launch.threads) stacks.emplace_back(STACK);
  d.stacks.swap(stacks);
  d.memory.resize(SHARED_MEMORY);
  device = &d;
  std::mt19937 random(launch.seed);
  for (unsigned z = 0; z < d.grid.z && d.error.empty(); ++z) {
    for (unsigned y = 0; y < d.grid.y && d.error.empty(); ++y) {
      for (unsigned x = 0; x < d.grid.x && d.error.empty(); ++x) {
        d.block = {x, y, z};
        run_block(d, random);
      }
    }
  }
  device = nullptr;
  d.stacks.swap(stacks);
  if (d.error.empty()) return {};
  char where[120];
  snprintf(where, sizeof where, "%s, block (%u, %u, %u): ", entry.name, d.block.x, d.block.y, d.block.z);
  return where + d.error;
}

}  // namespace emulator
