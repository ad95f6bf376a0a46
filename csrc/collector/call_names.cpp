#include "collector/call_names.h"

#include "collector/launching_calls.h"

namespace tetrace::collector {
namespace {

// The runtime of 13.0 has 523 calls, the driver 806. A version may leave numbers out.
constexpr std::uint32_t most_calls = 4096;
constexpr std::uint32_t longest_gap = 256;

}  // namespace

CallNames::CallNames(const CuptiApi& api, bool all) : api_(api), all_(all) {
  for (const std::uint16_t domain : {runtime_calls, driver_calls}) {
    std::uint32_t gap = 0;
    launches_[domain].resize(most_calls);
    for (std::uint32_t call = 1; call < most_calls && gap < longest_gap; ++call) {
      const char* known = name(domain, call);
      gap = known == nullptr ? gap + 1 : 0;
      if (known == nullptr) continue;
      const bool launches = is_launching_call(known);
      launches_[domain][call] = launches;
      known_[domain][launches].push_back(call);
    }
  }
  canary_ = number(driver_calls, "cuDriverGetVersion");
}

bool CallNames::is_recorded(std::uint16_t domain, std::uint32_t call) const {
  const bool is_own = domain == driver_calls && call == canary_;
  return !is_own && (all_ || (call < most_calls && launches_[domain][call]));
}

const char* CallNames::name(std::uint16_t domain, std::uint32_t call) const {
  const char* name = nullptr;
  const std::uint32_t in_cupti = domain == driver_calls ? cupti::driver_domain : cupti::runtime_domain;
  return api_.cuptiGetCallbackName(in_cupti, call, &name) == cupti::success ? name : nullptr;
}

std::vector<std::uint32_t> CallNames::numbers(std::uint16_t domain, std::string_view beginning) const {
  std::vector<std::uint32_t> found;
  for (const std::uint32_t call : known(domain, false)) {
    const char* text = name(domain, call);
    if (text != nullptr && std::string_view(text).substr(0, beginning.size()) == beginning) found.push_back(call);
  }
  return found;
}

std::uint32_t CallNames::number(std::uint16_t domain, std::string_view beginning) const {
  const std::vector<std::uint32_t> found = numbers(domain, beginning);
  return found.empty() ? 0 : found.front();
}

}  // namespace tetrace::collector
