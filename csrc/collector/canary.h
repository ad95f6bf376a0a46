// Whether CUPTI still hands its records to this library. Who calls cuptiActivityRegisterCallbacks later gets them all, and
// CUPTI tells nobody: no record comes then, as none comes while a script launches nothing. So where CUPTI is silent, a call
// of the driver is made that must leave a record.
#pragma once

#include <cstdint>

#include "collector/call_names.h"
#include "collector/cupti_api.h"

namespace tetrace::collector {

// Makes that call: cuDriverGetVersion, which waits for nothing and needs no context. Its record is nobody's (CallNames).
class Canary {
 public:
  // Whether it is to be made at all. With buffers of the whole process, its record may lie behind a kernel that still runs
  // and would not come back for as long: CUPTI has a buffer for each thread from 13.0 on, unless another tool chose else.
  Canary() = default;
  explicit Canary(const CuptiApi& api);
  bool can_sing() const { return call_ != nullptr; }
  void sing() const;

 private:
  int (*call_)(int* version) = nullptr;
};

// When to make the call, and when to believe that CUPTI answers no more.
class Silence {
 public:
  enum class Next { nothing, sing, lost };

  // Once a period while CUPTI records, before it is asked for what it has. `heard`: how often it has called back, for
  // whatever reason. `answers`: records of the call that have come.
  Next next(std::uint64_t heard, std::uint64_t answers, std::int64_t now_ns);
  // Nothing is recorded meanwhile: silence then means nothing.
  void pause() { paused_ = true; }
  // Up to here it has handed over what it had.
  std::int64_t good_until_ns() const { return good_until_ns_; }

 private:
  std::uint64_t heard_ = 0, answers_ = 0;
  bool paused_ = true;
  bool answers_here_ = false;  // else it may be a CUPTI that never records that call
  int tries_ = 0;
  int silent_ = 0;  // periods, one after the other
  std::int64_t asked_ns_ = 0, good_until_ns_ = 0;
};

}  // namespace tetrace::collector
