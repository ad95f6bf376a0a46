#include "ranges/clock.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstdio>
#include <cstring>
#endif

namespace tetrace::ranges {
namespace {

#if defined(__x86_64__)
// Linux takes "tsc" from this list when it finds that cores disagree. Where the file cannot be read, the processor's
// word is all there is. Not a stream: those are most of the C++ library that the collector brings along.
bool kernel_trusts_counter() {
  std::FILE* file = std::fopen("/sys/devices/system/clocksource/clocksource0/available_clocksource", "re");
  if (file == nullptr) return true;
  bool listed = false;
  for (char source[32]; !listed && std::fscanf(file, "%31s", source) == 1;) listed = std::strcmp(source, "tsc") == 0;
  std::fclose(file);
  return listed;
}

bool counter_is_steady() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool invariant = __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d & (1u << 8)) != 0;
  return invariant && kernel_trusts_counter();
}
#endif

}  // namespace

#if defined(__x86_64__)
const bool has_steady_counter = counter_is_steady();
#endif

Anchor anchor() {
  Anchor best{0, 0};
  std::uint64_t narrowest = UINT64_MAX;
  // An interrupt between two readings would tie the clocks together wrongly: of three, the narrowest counts.
  for (int attempt = 0; attempt < 3; ++attempt) {
    const std::uint64_t before = ticks();
    const std::int64_t ns = read_clock(CLOCK_REALTIME);
    const std::uint64_t width = ticks() - before;
    if (width >= narrowest) continue;
    narrowest = width;
    best = {before + width / 2, ns};
  }
  return best;
}

namespace {
const Anchor loaded = anchor();  // after has_steady_counter: one file initializes in order
}

double ticks_per_second() {
  constexpr std::int64_t enough_ns = 2'000'000;
  Anchor now = anchor();
  // A wall clock set back meanwhile must not keep us here.
  for (int reading = 0; reading < 100'000 && now.ns - loaded.ns < enough_ns; ++reading) now = anchor();
  if (now.ns <= loaded.ns) return 1e9;
  return 1e9 * static_cast<double>(now.ticks - loaded.ticks) / static_cast<double>(now.ns - loaded.ns);
}

}  // namespace tetrace::ranges
