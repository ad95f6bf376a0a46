// Switching kinds of records on and off in CUPTI.
#pragma once

#include <string>

#include "collector/call_names.h"
#include "collector/cupti_api.h"

namespace tetrace::collector {

class Activities {
 public:
  // Both outlive it.
  Activities(const CuptiApi& api, const CallNames& calls, bool all_calls);

  // In cuInit, before it is done: what CUPTI takes only then.
  void prepare();
  // Another tool has had CUPTI meanwhile.
  void retake();
  // "" when kernels are recorded from now on, else why not. Other kinds that this CUPTI refuses are left out. What streams
  // wait for comes as callbacks to the subscriber, or as records where there is none.
  std::string enable(Subscriber subscriber);
  void disable(Subscriber subscriber);

 private:
  // Records of all calls cost several times those of the launching ones.
  enum class Calls {
    all,        // also before CUPTI 12.5, which has no choice: the writer then leaves out what is not wanted
    chosen,     // one by one
    left_over,  // all of them, then those out that are not wanted: some milliseconds more
  };
  void switch_calls(bool on);
  bool switch_waits(Subscriber subscriber, bool on);

  const CuptiApi& api_;
  const CallNames& names_;
  Calls calls_;
};

}  // namespace tetrace::collector
