// The kernels of tensor_stats.cu on one device.
#pragma once

#include <string>
#include <unordered_map>

#include "fp8/driver.h"
#include "fp8/inspector.h"

namespace tetrace::fp8 {

struct Kernel {
  Function function = nullptr;
  unsigned shared_bytes = 0;
  int most_blocks = 0;  // that run at the same time
};

class Kernels {
 public:
  // Whether this build has any; nvcc makes them.
  static bool are_built();

  // Those of a device whose primary context is active, loaded once and for good. Throws where there are none for it.
  static const Kernels& of(int device, const std::string& library);

  // Whether there is a kernel of its own for one tensor.
  static bool has_one(const Call& call);
  // For tensors of this call, `one` of them or more.
  const Kernel& find(const Call& call, bool one) const;
  const Driver& driver() const { return driver_; }
  timing::Context context() const { return context_; }
  int multiprocessors() const { return multiprocessors_; }

 private:
  Kernels(int device, const Driver& driver);
  Kernel load(void* module, const std::string& name, bool with_bins) const;

  const Driver& driver_;
  timing::Context context_ = nullptr;
  int multiprocessors_ = 0;
  std::unordered_map<int, Kernel> kernels_;
};

}  // namespace tetrace::fp8
