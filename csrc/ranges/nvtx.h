// The NVTX domain "tetrace". Functions do nothing while no tool listens, and where NVTX was not there to compile with.
#pragma once

#include <atomic>
#include <cstdint>

#include "ranges/sites.h"

namespace tetrace::ranges::nvtx {

extern std::atomic<void*> domain;

inline bool listening() { return domain.load(std::memory_order_acquire) != nullptr; }

// Loads the tool that NVTX_INJECTION64_PATH names, if it names one; once. NVTX itself looks for a tool only at its
// first call, and never again, so no call is made before there is one to find.
void find_tool();

// What every event carries as its payload: the site's number, and above it the step's plus one.
inline std::uint64_t payload(std::int32_t site, std::int32_t step) {
  return static_cast<std::uint32_t>(site) | std::uint64_t{static_cast<std::uint32_t>(step + 1)} << 32;
}

// For these a tool must listen.
void push(Site& site, std::uint64_t payload);
void pop();
std::uint64_t start(Site& site, std::uint64_t payload);
void end(std::uint64_t range);

}  // namespace tetrace::ranges::nvtx
