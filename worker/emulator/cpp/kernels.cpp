// The kernels themselves, and the C interface to running them.
#include "kernels.cu"

using namespace emulator;

// Size of a kernel's argument; 0: there is no such kernel.
extern "C" size_t emulator_args(const char* name) {
  const Entry* entry = find(name);
  return entry ? entry->args : 0;
}

// Runs a launch of a kernel that exists. Writes where it waits to `sites`, at most `room`, their number to `count`, and
// why it failed, if it did, to `error`, `error_room` bytes with the closing 0.
extern "C" bool emulator_run(const char* name, const Launch* launch, Site* sites, size_t room, size_t* count, char* error,
                             size_t error_room) {
  std::vector<Site> seen;
  const std::string why = run(*find(name), *launch, seen);
  *count = seen.size() < room ? seen.size() : room;
  for (size_t i = 0; i < *count; ++i) sites[i] = seen[i];
  strncpy(error, why.c_str(), error_room - 1);
  error[error_room - 1] = 0;
  return why.empty();
}
