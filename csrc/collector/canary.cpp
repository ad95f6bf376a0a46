#include "collector/canary.h"

#include <dlfcn.h>

namespace tetrace::collector {
namespace {

constexpr std::uint32_t first_with_buffers_of_threads = 130000;  // cuptiGetVersion of 13.0
constexpr int most_tries = 5;
// In the first one the call is made, in each of the next two its record should have come.
constexpr int most_silent = 2;

bool has_buffers_of_threads(const CuptiApi& api) {
  if (api.version < first_with_buffers_of_threads || api.cuptiActivityGetAttribute == nullptr) return false;
  std::uint8_t on = 0;
  std::size_t bytes = sizeof on;
  return api.cuptiActivityGetAttribute(cupti::buffers_of_threads, &bytes, &on) == cupti::success && on != 0;
}

}  // namespace

Canary::Canary(const CuptiApi& api) {
  if (!has_buffers_of_threads(api)) return;
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (driver != nullptr) call_ = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDriverGetVersion"));
}

void Canary::sing() const {
  int version = 0;
  call_(&version);
}

Silence::Next Silence::next(std::uint64_t heard, std::uint64_t answers, std::int64_t now_ns) {
  if (paused_) {
    silent_ = 0;
    good_until_ns_ = now_ns;
  } else {
    answers_here_ = answers_here_ || answers != answers_;
    silent_ = heard == heard_ ? silent_ + 1 : 0;
    // What it had by then has come: it called back after it was asked.
    if (silent_ == 0) good_until_ns_ = asked_ns_;
  }
  paused_ = false;
  heard_ = heard;
  answers_ = answers;
  asked_ns_ = now_ns;
  if (!answers_here_) return tries_++ < most_tries ? Next::sing : Next::nothing;
  if (silent_ > most_silent) return Next::lost;
  return silent_ > 0 ? Next::sing : Next::nothing;
}

}  // namespace tetrace::collector
