// The calls of CUDA that this libcupti knows, by number: what each is called, and which are recorded.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "collector/cupti_api.h"

namespace tetrace::collector {

constexpr std::uint16_t runtime_calls = 0;  // CallRow::domain
constexpr std::uint16_t driver_calls = 1;

class CallNames {
 public:
  // All calls, or those that is_launching_call names.
  CallNames(const CuptiApi& api, bool all);

  bool is_recorded(std::uint16_t domain, std::uint32_t call) const;
  // The calls that launch, or the others.
  const std::vector<std::uint32_t>& known(std::uint16_t domain, bool launching) const { return known_[domain][launching]; }
  // Null where CUPTI has none.
  const char* name(std::uint16_t domain, std::uint32_t call) const;
  // Of the others, those whose names begin so; and the first of them, or 0, which is none.
  std::vector<std::uint32_t> numbers(std::uint16_t domain, std::string_view beginning) const;
  std::uint32_t number(std::uint16_t domain, std::string_view beginning) const;
  // The driver's call that the collector makes itself (canary.h), and that is never recorded; 0 is none.
  std::uint32_t canary() const { return canary_; }

 private:
  const CuptiApi& api_;
  bool all_;
  std::vector<bool> launches_[2];
  std::vector<std::uint32_t> known_[2][2];
  std::uint32_t canary_ = 0;
};

}  // namespace tetrace::collector
