#include "fp8/driver.h"

#include "common/symbols.h"

namespace tetrace::fp8 {
namespace {

Driver load(const std::string& path) {
  Driver driver{};
  driver.base = &timing::load_driver(path);
  const Symbols symbols(path, "CUDA 11");
  symbols.find("cuGetErrorName", driver.error_name);
  symbols.find("cuDriverGetVersion", driver.driver_version);
  symbols.find("cuDeviceGetAttribute", driver.attribute);
  symbols.find("cuModuleLoadData", driver.module_load);
  symbols.find("cuModuleGetFunction", driver.module_function);
  symbols.find("cuFuncSetAttribute", driver.function_set);
  symbols.find("cuOccupancyMaxActiveBlocksPerMultiprocessor", driver.blocks_per_multiprocessor);
  symbols.find("cuLaunchKernel", driver.launch);
  symbols.find("cuMemAlloc_v2", driver.allocate);
  symbols.find("cuMemFree_v2", driver.release);
  symbols.find("cuMemHostAlloc", driver.host_allocate);
  symbols.find("cuMemFreeHost", driver.host_release);
  symbols.find("cuMemcpyDtoHAsync_v2", driver.copy_out);
  symbols.find("cuMemsetD8Async", driver.clear);
  symbols.find("cuStreamCreate", driver.stream_create);
  symbols.find("cuStreamDestroy_v2", driver.stream_destroy);
  symbols.find("cuStreamWaitEvent", driver.stream_wait);
  symbols.find("cuStreamSynchronize", driver.stream_synchronize);
  symbols.find("cuCtxSynchronize", driver.context_synchronize);
  return driver;
}

}  // namespace

const Driver& load_driver(const std::string& path) { return loaded_once(path, load); }

std::string name_of(const Driver& driver, int error) {
  const char* name = nullptr;
  if (driver.error_name(error, &name) != timing::success || name == nullptr) return "error " + std::to_string(error);
  return name;
}

}  // namespace tetrace::fp8
