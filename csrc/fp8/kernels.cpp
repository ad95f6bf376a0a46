#include "fp8/kernels.h"

#include <map>
#include <mutex>

#include "common/error.h"
#include "fp8/launch.h"

#if defined(TETRACE_FP8_IMAGE)
// What nvcc made of tensor_stats.cu, for several architectures, as it is.
asm(".section .rodata\n"
    ".balign 16\n"
    ".hidden tetrace_fp8_image\n"
    ".global tetrace_fp8_image\n"
    "tetrace_fp8_image:\n"
    ".incbin \"" TETRACE_FP8_IMAGE "\"\n"
    ".byte 0\n"
    ".text\n");
extern "C" const unsigned char tetrace_fp8_image[];
#endif

#if !defined(TETRACE_FP8_CUDA)
#define TETRACE_FP8_CUDA "none"
#endif

namespace tetrace::fp8 {
namespace {

const void* image() {
#if defined(TETRACE_FP8_IMAGE)
  return tetrace_fp8_image;
#else
  return nullptr;
#endif
}

constexpr const char* dtype_names[] = {"bf16", "f16", "f32", "e4m3", "e5m2"};

bool is_code(Dtype dtype) { return dtype == Dtype::e4m3 || dtype == Dtype::e5m2; }

// What tells kernels apart: dtype, and whether there are bins, a format, blocks, several tensors.
struct Kind {
  Dtype dtype;
  bool bins, format, blocks, many;

  int key() const { return static_cast<int>(dtype) << 4 | bins << 3 | format << 2 | blocks << 1 | many; }
  bool exists() const {
    if (is_code(dtype)) return !format && many;
    return blocks ? format && many : true;
  }
  std::string name() const {
    std::string text = std::string("tetrace_fp8_") + dtype_names[static_cast<int>(dtype)];
    if (blocks) {
      text += "_blocks";
    } else if (!is_code(dtype)) {
      text += format ? "_format" : "_moments";
    }
    return text + (bins ? "_bins" : "") + (many ? "_many" : "_one");
  }
};

Kind kind_of(const Call& call, bool one) {
  const bool code = is_code(call.dtype);
  const bool blocks = call.layout != Layout::tensor && (code || call.format != Format::none);
  return {call.dtype, call.histogram, !code && call.format != Format::none, blocks, !one || blocks || code};
}

timing::Context retain(const Driver& driver, int ordinal, int* device) {
  unsigned flags = 0;
  int active = 0;
  const timing::Driver& base = *driver.base;
  const bool known = base.device_get(device, ordinal) == timing::success;
  if (!known || base.primary_state(*device, &flags, &active) != timing::success || active == 0) {
    refuse("device ", ordinal, " is not in use by this process; make a tensor on it first");
  }
  timing::Context context = nullptr;
  const int error = base.primary_retain(&context, *device);
  if (error != timing::success) refuse("device ", ordinal, ": ", name_of(driver, error));
  return context;
}

}  // namespace

bool Kernels::are_built() { return image() != nullptr; }

Kernels::Kernels(int ordinal, const Driver& driver) : driver_(driver) {
  int device = -1;
  context_ = retain(driver, ordinal, &device);
  const timing::RelaxedCapture relaxed(*driver.base);
  const timing::CurrentContext current(*driver.base, context_);
  driver_.attribute(&multiprocessors_, multiprocessor_count, device);
  void* module = nullptr;
  const int error = driver_.module_load(&module, image());
  if (error != timing::success) {
    int version = 0;
    driver_.driver_version(&version);
    refuse("the FP8 kernels do not load on device ", ordinal, " (", name_of(driver_, error), "): its driver is for CUDA ",
           version / 1000, ".", version % 1000 / 10, ", they were built with CUDA ", TETRACE_FP8_CUDA,
           "; update the driver, or build tetrace with the nvcc of an older CUDA");
  }
  for (int dtype = 0; dtype < 5; ++dtype) {
    for (int bits = 0; bits < 16; ++bits) {
      const Kind kind{static_cast<Dtype>(dtype), (bits & 8) != 0, (bits & 4) != 0, (bits & 2) != 0, (bits & 1) != 0};
      if (kind.exists()) kernels_[kind.key()] = load(module, kind.name(), kind.bins);
    }
  }
}

Kernel Kernels::load(void* module, const std::string& name, bool with_bins) const {
  Kernel kernel;
  kernel.shared_bytes = with_bins ? histogram_shared_bytes : 0;
  int blocks = 0;
  int error = driver_.module_function(&kernel.function, module, name.c_str());
  if (error == timing::success && with_bins) {
    error = driver_.function_set(kernel.function, max_dynamic_shared_bytes, histogram_shared_bytes);
  }
  if (error == timing::success) {
    error = driver_.blocks_per_multiprocessor(&blocks, kernel.function, threads_per_block, kernel.shared_bytes);
  }
  if (error != timing::success) refuse("the FP8 kernel ", name, " cannot run here: ", name_of(driver_, error));
  kernel.most_blocks = blocks * multiprocessors_;
  return kernel;
}

const Kernels& Kernels::of(int device, const std::string& library) {
  if (!are_built()) {
    refuse("this tetrace was built without its FP8 kernels; install it again where a CUDA toolkit is (tetrace doctor)");
  }
  static std::mutex loading;
  static auto& loaded = *new std::map<int, Kernels>;
  const Driver& driver = load_driver(library);
  const std::lock_guard<std::mutex> lock(loading);
  const auto found = loaded.find(device);
  return found != loaded.end() ? found->second : loaded.emplace(device, Kernels(device, driver)).first->second;
}

bool Kernels::has_one(const Call& call) { return !kind_of(call, true).many; }

const Kernel& Kernels::find(const Call& call, bool one) const { return kernels_.at(kind_of(call, one).key()); }

}  // namespace tetrace::fp8
