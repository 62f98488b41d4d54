// NVIDIA's driver, as far as the worker calls it, on the emulator: what the worker's calls of a driver are tested with.
//
// It is stricter than a driver must be: work waits until somebody waits for it, and what is called in the wrong order,
// destroyed twice, read too early or left behind ends the process with the name of the call.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "launch.hpp"

extern "C" size_t emulator_args(const char* name);
extern "C" bool emulator_run(const char* name, const emulator::Launch* launch, emulator::Site* sites, size_t room,
                             size_t* count, char* error, size_t error_room);

namespace {

typedef unsigned long long Address;
enum Result : int { SUCCESS = 0, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };

#define NEED(condition)                                                    \
  do {                                                                     \
    if (!(condition)) {                                                    \
      fprintf(stderr, "the driver's stand-in: %s: %s\n", __func__, #condition); \
      abort();                                                             \
    }                                                                      \
  } while (0)

// What a stream does, one after another.
struct Node {
  bool kernel;
  std::function<void()> run;
};
struct Event {
  bool came = false;
  std::chrono::steady_clock::time_point time;
};
struct Stream {
  bool capturing = false;
  std::vector<Node> waiting, captured;
};
struct Graph {
  std::vector<Node> nodes;
};
struct Module {
  // Empty: the fatbin.
  std::string ptx;
};
struct Function {
  std::string name;
  // Of PTX, which nothing here runs.
  bool foreign;
};

int retained = 0;
thread_local bool entered = false;
std::map<Address, size_t> memory;
std::set<void*> handles, host;
std::vector<std::unique_ptr<Function>> functions;

template <class T>
T* known(T* handle) {
  NEED(entered && handles.count(handle));
  return handle;
}
template <class T>
T* added(T* handle) {
  NEED(entered);
  handles.insert(handle);
  return handle;
}
template <class T>
Result gone(T* handle) {
  NEED(handles.erase(known(handle)) == 1);
  delete handle;
  return SUCCESS;
}

void inside(Address at, size_t bytes) {
  auto after = memory.upper_bound(at);
  NEED(after != memory.begin());
  --after;
  NEED(at + bytes <= after->first + after->second);
}

Result put(Stream* stream, bool kernel, std::function<void()> run) {
  (known(stream)->capturing ? stream->captured : stream->waiting).push_back({kernel, std::move(run)});
  return SUCCESS;
}

// A copy is no part of what the worker captures.
Result put_copy(Stream* stream, void* to, const void* from, size_t bytes) {
  NEED(!known(stream)->capturing);
  return put(stream, false, [=] { memcpy(to, from, bytes); });
}

void* at(Address address, size_t bytes) {
  inside(address, bytes);
  return reinterpret_cast<void*>(address);
}

struct Attribute {
  unsigned id;
  char pad[4];
  union {
    char room[64];
    int allowed;
  } value;
};
struct Config {
  unsigned grid[3], block[3], shared;
  Stream* stream;
  const Attribute* attributes;
  unsigned count;
};

}  // namespace

extern "C" {

Result cuInit(unsigned) { return SUCCESS; }
Result cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
Result cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
Result cuDeviceGet(int* device, int ordinal) { return *device = ordinal, SUCCESS; }
Result cuDeviceGetName(char* name, int room, int) { return strncpy(name, "emulated", room), SUCCESS; }
Result cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = size_t{1} << 33, SUCCESS; }

Result cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 13: return *value = 1'980'000, SUCCESS;  // clock, kHz
    case 16: return *value = 132, SUCCESS;        // multiprocessors
    case 36: return *value = 3'201'000, SUCCESS;  // clock of the memory, kHz
    case 75: return *value = 9, SUCCESS;          // compute capability, major
    case 76: return *value = 0, SUCCESS;          // and minor
  }
  NEED(false);
  return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void** context, int) { return ++retained, *context = &retained, SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int) {
  NEED(retained > 0);
  if (--retained == 0) NEED(memory.empty() && handles.empty() && host.empty());
  return SUCCESS;
}
Result cuCtxSetCurrent(void* context) {
  NEED(retained > 0 && context == &retained);
  entered = true;
  return SUCCESS;
}

Result cuMemGetInfo_v2(size_t* free, size_t* all) { return *free = *all = size_t{1} << 28, SUCCESS; }
Result cuMemAlloc_v2(Address* address, size_t bytes) {
  NEED(entered && bytes > 0);
  void* at = nullptr;
  if (posix_memalign(&at, 256, bytes)) return OUT_OF_MEMORY;
  memset(at, 0xff, bytes);
  memory[*address = reinterpret_cast<Address>(at)] = bytes;
  return SUCCESS;
}
Result cuMemFree_v2(Address address) {
  NEED(memory.erase(address) == 1);
  free(reinterpret_cast<void*>(address));
  return SUCCESS;
}
Result cuMemHostAlloc(void** at, size_t bytes, unsigned) { return host.insert(*at = malloc(bytes)), SUCCESS; }
Result cuMemFreeHost(void* at) {
  NEED(host.erase(at) == 1);
  free(at);
  return SUCCESS;
}
Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Stream* stream) {
  NEED(!known(stream)->capturing);
  inside(to, bytes);
  return put(stream, false, [=] { memset(reinterpret_cast<void*>(to), value, bytes); });
}
Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream* stream) {
  return put_copy(stream, at(to, bytes), from, bytes);
}
Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream* stream) {
  return put_copy(stream, to, at(from, bytes), bytes);
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream* stream) {
  return put_copy(stream, at(to, bytes), at(from, bytes), bytes);
}

Result cuStreamCreate(Stream** stream, unsigned) { return *stream = added(new Stream), SUCCESS; }
Result cuStreamDestroy_v2(Stream* stream) { return gone(stream); }
Result cuStreamSynchronize(Stream* stream) {
  NEED(!known(stream)->capturing);
  for (const Node& node : stream->waiting) node.run();
  stream->waiting.clear();
  return SUCCESS;
}
Result cuStreamBeginCapture_v2(Stream* stream, int) {
  NEED(!known(stream)->capturing);
  stream->capturing = true;
  return SUCCESS;
}
Result cuStreamEndCapture(Stream* stream, Graph** graph) {
  NEED(known(stream)->capturing);
  stream->capturing = false;
  *graph = added(new Graph{std::move(stream->captured)});
  stream->captured.clear();
  return SUCCESS;
}

// A graph ready to run is one of its own.
Result cuGraphInstantiateWithFlags(Graph** ready, Graph* graph, unsigned long long flags) {
  NEED(flags == 0);
  *ready = added(new Graph(*known(graph)));
  return SUCCESS;
}
Result cuGraphExecDestroy(Graph* ready) { return gone(ready); }
Result cuGraphDestroy(Graph* graph) { return gone(graph); }
Result cuGraphLaunch(Graph* ready, Stream* stream) {
  NEED(!known(stream)->capturing);
  for (const Node& node : known(ready)->nodes) put(stream, node.kernel, node.run);
  return SUCCESS;
}

Result cuEventCreate(Event** event, unsigned flags) {
  NEED(flags == 0);
  return *event = added(new Event), SUCCESS;
}
Result cuEventDestroy_v2(Event* event) { return gone(event); }
Result cuEventRecordWithFlags(Event* event, Stream* stream, unsigned flags) {
  // External: a node of what is captured.
  NEED(flags == 1 && known(stream)->capturing);
  known(event);
  return put(stream, false, [=] {
    known(event)->came = true;
    event->time = std::chrono::steady_clock::now();
  });
}
Result cuEventElapsedTime_v2(float* ms, Event* from, Event* to) {
  NEED(known(from)->came && known(to)->came);
  *ms = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return SUCCESS;
}

Result cuModuleLoadData(Module** module, const void* image) {
  const bool fatbin = *static_cast<const unsigned*>(image) == 0xba55ed50;
  // Read in words of up to 16 bytes.
  NEED(!fatbin || reinterpret_cast<uintptr_t>(image) % 16 == 0);
  *module = added(new Module{fatbin ? "" : static_cast<const char*>(image)});
  return SUCCESS;
}
Result cuModuleUnload(Module* module) { return gone(module); }
Result cuModuleGetFunction(Function** function, Module* module, const char* name) {
  const std::string& ptx = known(module)->ptx;
  const bool there =
      ptx.empty() ? emulator_args(name) > 0 : ptx.find(std::string(".entry ") + name + "(") != std::string::npos;
  if (!there) return NOT_FOUND;
  functions.emplace_back(new Function{name, !ptx.empty()});
  *function = functions.back().get();
  return SUCCESS;
}
Result cuFuncLoad(Function*) { return SUCCESS; }
Result cuFuncGetAttribute(int* value, int attribute, Function*) {
  // Bytes of local memory, registers, the architecture that the code is for.
  NEED(attribute == 3 || attribute == 4 || attribute == 6);
  *value = attribute == 3 ? 0 : attribute == 4 ? 64 : 90;
  return SUCCESS;
}

Result cuLaunchKernelEx(const Config* config, Function* function, void** arguments, void** extra) {
  Stream* stream = known(config->stream);
  NEED(config->block[1] == 1 && config->block[2] == 1 && config->shared == 0 && !extra);
  if (config->count > 0) {
    // It may begin before the kernel that comes before it has ended: one must come before.
    const auto& before = stream->capturing ? stream->captured : stream->waiting;
    NEED(config->count == 1 && config->attributes->id == 6 && config->attributes->value.allowed == 1);
    NEED(!before.empty() && before.back().kernel);
  }
  if (function->foreign) return put(stream, true, [] {});
  // The argument is the caller's until the call returns; a struct of C needs its alignment.
  const std::string name = function->name;
  std::vector<std::max_align_t> argument(emulator_args(name.c_str()) / sizeof(std::max_align_t) + 1);
  memcpy(argument.data(), arguments[0], emulator_args(name.c_str()));
  emulator::Launch launch{};
  memcpy(launch.grid, config->grid, sizeof launch.grid);
  launch.threads = config->block[0];
  return put(stream, true, [=]() mutable {
    launch.args = argument.data();
    emulator::Site sites[64];
    size_t count = 0;
    char error[512];
    if (!emulator_run(name.c_str(), &launch, sites, 64, &count, error, sizeof error)) {
      fprintf(stderr, "the driver's stand-in: %s: %s\n", name.c_str(), error);
      abort();
    }
  });
}

}  // extern "C"
