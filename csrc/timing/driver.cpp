#include "timing/driver.h"

#include "common/symbols.h"

namespace tetrace::timing {
namespace {

Driver load(const std::string& path) {
  const Symbols symbols(path, "CUDA 10.1");
  Driver driver{};
  symbols.find("cuDeviceGet", driver.device_get);
  symbols.find("cuDevicePrimaryCtxGetState", driver.primary_state);
  symbols.find("cuDevicePrimaryCtxRetain", driver.primary_retain);
  symbols.find("cuDevicePrimaryCtxRelease_v2", driver.primary_release);
  symbols.find("cuCtxGetCurrent", driver.current_context);
  symbols.find("cuCtxPushCurrent_v2", driver.push_context);
  symbols.find("cuCtxPopCurrent_v2", driver.pop_context);
  symbols.find("cuThreadExchangeStreamCaptureMode", driver.exchange_capture_mode);
  symbols.find("cuStreamIsCapturing", driver.is_capturing);
  symbols.find("cuEventCreate", driver.event_create);
  symbols.find("cuEventDestroy_v2", driver.event_destroy);
  symbols.find("cuEventRecord", driver.event_record);
  symbols.find("cuEventQuery", driver.event_query);
  symbols.find("cuEventElapsedTime", driver.event_elapsed);
  return driver;
}

}  // namespace

const Driver& load_driver(const std::string& path) { return loaded_once(path, load); }

CurrentContext::CurrentContext(const Driver& driver, Context context) : driver_(driver) {
  Context current = nullptr;
  driver_.current_context(&current);
  if (current != context) pushed_ = driver_.push_context(context) == success;
}

CurrentContext::~CurrentContext() {
  Context popped = nullptr;
  if (pushed_) driver_.pop_context(&popped);
}

}  // namespace tetrace::timing
