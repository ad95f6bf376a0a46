#include "collector/launching_calls.h"

#include <cstddef>

namespace tetrace::collector {
namespace {

bool starts_with(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

// Behind "cu" or "cuda". "Memcpy" has all copies in it, "MemAlloc" those from pools.
constexpr std::string_view beginnings[] = {
    "Launch",          "GraphLaunch", "Memcpy",       "Memset",         "MemPrefetch",  "DeviceSynchronize",
    "StreamSynchronize", "EventSynchronize", "CtxSynchronize", "ThreadSynchronize", "Malloc", "Free",
    "HostAlloc",       "HostRegister", "HostUnregister", "MemAlloc",     "MemFree",      "MemHost",
    "MemCreate",       "MemRelease",  "MemMap",       "MemUnmap",       "ModuleLoad",   "ModuleUnload",
    "LibraryLoad",     "LibraryUnload", "LinkComplete",
};

}  // namespace

bool is_launching_call(std::string_view name) {
  while (starts_with(name, "_")) name.remove_prefix(1);
  if (!starts_with(name, "cu")) return false;
  name.remove_prefix(starts_with(name, "cuda") ? 4 : 2);
  for (const std::string_view beginning : beginnings) {
    if (starts_with(name, beginning)) return true;
  }
  return false;
}

}  // namespace tetrace::collector
