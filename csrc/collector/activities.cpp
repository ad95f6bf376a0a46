#include "collector/activities.h"

namespace tetrace::collector {
namespace {

using cupti::Activity;

// CONCURRENT_KERNEL, because KERNEL would run kernels one after the other. Peer copies are a kind of their own.
constexpr Activity others[] = {Activity::memcpy, Activity::memcpy_peer, Activity::memset, Activity::overhead};

bool can_choose(const CuptiApi& api) {
  return api.cuptiActivityEnableRuntimeApi != nullptr && api.cuptiActivityEnableDriverApi != nullptr;
}

}  // namespace

Activities::Activities(const CuptiApi& api, const CallNames& names, bool all_calls)
    : api_(api), names_(names), calls_(all_calls || !can_choose(api) ? Calls::all : Calls::chosen) {}

// Devices are told of when CUDA starts. A call chosen after that gives no records (seen with 13.0) unless one has been
// chosen all the time: it is one that scripts hardly make, and that the writer leaves out.
void Activities::prepare() {
  api_.cuptiActivityEnable(Activity::device);
  if (calls_ != Calls::chosen) return;
  api_.cuptiActivityEnableRuntimeApi(names_.number(runtime_calls, "cudaProfilerStop"), 1);
  api_.cuptiActivityEnableDriverApi(names_.number(driver_calls, "cuProfilerStop"), 1);
}

// The call that was chosen all the time may be no more.
void Activities::retake() {
  api_.cuptiActivityEnable(Activity::device);  // it may have had CUPTI before CUDA started
  if (calls_ == Calls::chosen) calls_ = Calls::left_over;
}

void Activities::switch_calls(bool on) {
  if (calls_ != Calls::chosen) {
    const auto change = on ? api_.cuptiActivityEnable : api_.cuptiActivityDisable;
    change(Activity::runtime);
    change(Activity::driver);
  }
  if (calls_ == Calls::all || (calls_ == Calls::left_over && !on)) return;
  const bool wanted = calls_ == Calls::chosen;
  for (const std::uint32_t call : names_.known(runtime_calls, wanted)) api_.cuptiActivityEnableRuntimeApi(call, on && wanted);
  for (const std::uint32_t call : names_.known(driver_calls, wanted)) api_.cuptiActivityEnableDriverApi(call, on && wanted);
  if (names_.canary() != 0) api_.cuptiActivityEnableDriverApi(names_.canary(), on);
}

// Records of synchronizations slow a launch-bound step (benchmarks/cupti.py), and what the host waits for is among the calls
// anyway. False where callbacks cannot be had.
bool Activities::switch_waits(Subscriber subscriber, bool on) {
  if (subscriber == nullptr || api_.cuptiGetStreamIdEx == nullptr) return false;
  bool any = false;
  const auto change = [&](std::uint16_t domain, std::uint32_t in_cupti, const char* beginning) {
    for (const std::uint32_t call : names_.numbers(domain, beginning)) {
      any |= api_.cuptiEnableCallback(on, subscriber, in_cupti, call) == cupti::success;
    }
  };
  change(runtime_calls, cupti::runtime_domain, "cudaStreamWaitEvent");
  change(driver_calls, cupti::driver_domain, "cuStreamWaitEvent");
  return any;
}

// Calls first on and last off, so that each kernel of the window has its call.
std::string Activities::enable(Subscriber subscriber) {
  switch_calls(true);
  if (!switch_waits(subscriber, true)) api_.cuptiActivityEnable(Activity::synchronization);
  for (const Activity kind : others) api_.cuptiActivityEnable(kind);
  const cupti::Result result = api_.cuptiActivityEnable(Activity::concurrent_kernel);
  return result == cupti::success ? "" : "CUPTI does not record kernels here: " + api_.words(result);
}

void Activities::disable(Subscriber subscriber) {
  api_.cuptiActivityDisable(Activity::concurrent_kernel);
  if (!switch_waits(subscriber, false)) api_.cuptiActivityDisable(Activity::synchronization);
  for (const Activity kind : others) api_.cuptiActivityDisable(kind);
  switch_calls(false);
}

}  // namespace tetrace::collector
