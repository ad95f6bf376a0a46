// Reading the time in a few nanoseconds: the processor's counter, and what ties it to the wall clock.
#pragma once

#include <time.h>

#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace tetrace::ranges {

// One moment on both clocks: ticks of `ticks()` and nanoseconds of CLOCK_REALTIME.
struct Anchor {
  std::uint64_t ticks;
  std::int64_t ns;
};

inline std::int64_t read_clock(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return std::int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

#if defined(__x86_64__)
// Whether the time stamp counter runs at one rate on all cores. Without it clock_gettime serves, at up to 50 ns a call
// on virtual machines.
extern const bool has_steady_counter;
#endif

inline std::uint64_t ticks() {
#if defined(__aarch64__)
  std::uint64_t count;
  asm volatile("mrs %0, cntvct_el0" : "=r"(count));
  return count;
#else
#if defined(__x86_64__)
  if (has_steady_counter) return __rdtsc();
#endif
  return static_cast<std::uint64_t>(read_clock(CLOCK_MONOTONIC));
#endif
}

Anchor anchor();

// Measured over the time since the extension was loaded; waits until 2 ms of it are over.
double ticks_per_second();

}  // namespace tetrace::ranges
