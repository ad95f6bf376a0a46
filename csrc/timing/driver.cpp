#include "timing/driver.h"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "common/error.h"

namespace tetrace::timing {
namespace {

template <class Function>
void find(void* library, const std::string& path, const char* name, Function*& function) {
  void* found = dlsym(library, name);
  if (found == nullptr) refuse(path, ": has no ", name, "; it is no CUDA driver, or one older than CUDA 10.1");
  function = reinterpret_cast<Function*>(found);
}

Driver load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) refuse(path, ": cannot be loaded (", dlerror(), "); the CUDA driver must be installed");
  Driver driver{};
  find(library, path, "cuDeviceGet", driver.device_get);
  find(library, path, "cuDevicePrimaryCtxGetState", driver.primary_state);
  find(library, path, "cuDevicePrimaryCtxRetain", driver.primary_retain);
  find(library, path, "cuDevicePrimaryCtxRelease_v2", driver.primary_release);
  find(library, path, "cuCtxGetCurrent", driver.current_context);
  find(library, path, "cuCtxPushCurrent_v2", driver.push_context);
  find(library, path, "cuCtxPopCurrent_v2", driver.pop_context);
  find(library, path, "cuThreadExchangeStreamCaptureMode", driver.exchange_capture_mode);
  find(library, path, "cuStreamIsCapturing", driver.is_capturing);
  find(library, path, "cuEventCreate", driver.event_create);
  find(library, path, "cuEventDestroy_v2", driver.event_destroy);
  find(library, path, "cuEventRecord", driver.event_record);
  find(library, path, "cuEventQuery", driver.event_query);
  find(library, path, "cuEventElapsedTime", driver.event_elapsed);
  return driver;
}

}  // namespace

const Driver& load_driver(const std::string& path) {
  static std::mutex loading;
  // Never unloaded: its functions may run at any time, also while the process ends.
  static auto& loaded = *new std::map<std::string, Driver>;
  const std::lock_guard<std::mutex> lock(loading);
  const auto found = loaded.find(path);
  return found != loaded.end() ? found->second : loaded.emplace(path, load(path)).first->second;
}

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
