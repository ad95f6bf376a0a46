#include "fp8/driver.h"

#include <dlfcn.h>

#include <map>
#include <mutex>

#include "common/error.h"

namespace tetrace::fp8 {
namespace {

template <class F>
void find(void* library, const std::string& path, const char* name, F*& function) {
  void* found = dlsym(library, name);
  if (found == nullptr) refuse(path, ": has no ", name, "; it is no CUDA driver, or one older than CUDA 11");
  function = reinterpret_cast<F*>(found);
}

Driver load(const std::string& path) {
  Driver driver{};
  driver.base = &timing::load_driver(path);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // the same one again
  find(library, path, "cuGetErrorName", driver.error_name);
  find(library, path, "cuDriverGetVersion", driver.driver_version);
  find(library, path, "cuDeviceGetAttribute", driver.attribute);
  find(library, path, "cuModuleLoadData", driver.module_load);
  find(library, path, "cuModuleGetFunction", driver.module_function);
  find(library, path, "cuFuncSetAttribute", driver.function_set);
  find(library, path, "cuOccupancyMaxActiveBlocksPerMultiprocessor", driver.blocks_per_multiprocessor);
  find(library, path, "cuLaunchKernel", driver.launch);
  find(library, path, "cuMemAlloc_v2", driver.allocate);
  find(library, path, "cuMemFree_v2", driver.release);
  find(library, path, "cuMemHostAlloc", driver.host_allocate);
  find(library, path, "cuMemFreeHost", driver.host_release);
  find(library, path, "cuMemcpyDtoHAsync_v2", driver.copy_out);
  find(library, path, "cuMemsetD8Async", driver.clear);
  find(library, path, "cuStreamCreate", driver.stream_create);
  find(library, path, "cuStreamDestroy_v2", driver.stream_destroy);
  find(library, path, "cuStreamWaitEvent", driver.stream_wait);
  find(library, path, "cuStreamSynchronize", driver.stream_synchronize);
  find(library, path, "cuCtxSynchronize", driver.context_synchronize);
  return driver;
}

}  // namespace

const Driver& load_driver(const std::string& path) {
  static std::mutex loading;
  static auto& loaded = *new std::map<std::string, Driver>;
  const std::lock_guard<std::mutex> lock(loading);
  const auto found = loaded.find(path);
  return found != loaded.end() ? found->second : loaded.emplace(path, load(path)).first->second;
}

std::string name_of(const Driver& driver, int error) {
  const char* name = nullptr;
  if (driver.error_name(error, &name) != timing::success || name == nullptr) return "error " + std::to_string(error);
  return name;
}

}  // namespace tetrace::fp8
