#include "fp8/inspect.h"

#include <vector>

#include "common/error.h"
#include "fp8/packed_bins.h"
#include "fp8/tensor_stats.h"

namespace tetrace::fp8 {
namespace {

void require(const Driver& driver, int error) {
  if (error != timing::success) refuse("the FP8 kernels did not run: ", name_of(driver, error));
}

// Device memory, zero.
class Memory {
 public:
  Memory(const Driver& driver, std::size_t bytes, Stream stream) : driver_(driver) {
    if (bytes == 0) return;
    require(driver_, driver_.allocate(&pointer, bytes));
    const int error = driver_.clear(pointer, 0, bytes, stream);
    if (error == timing::success) return;
    driver_.release(pointer);
    require(driver_, error);
  }
  ~Memory() {
    if (pointer != 0) driver_.release(pointer);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Pointer pointer = 0;

 private:
  const Driver& driver_;
};

template <class T>
std::vector<T> copied(const Driver& driver, const Memory& memory, std::size_t size, Stream stream) {
  std::vector<T> values(size);
  if (size == 0) return values;
  require(driver, driver.copy_out(values.data(), memory.pointer, size * sizeof(T), stream));
  return values;
}

}  // namespace

Taken inspect(int device, void* stream, const Tensor* tensors, std::size_t count, const Call& call,
              const std::string& library) {
  check(tensors, count, call);
  const Kernels& kernels = Kernels::of(device, library);
  const Driver& driver = kernels.driver();
  const timing::CurrentContext current(*driver.base, kernels.context());
  const std::size_t bins = call.histogram ? count * histogram_bins : 0;
  const Memory counters(driver, count * sizeof(Counters), stream);
  const Memory histograms(driver, bins * sizeof(std::uint32_t), stream);
  require(driver, launch(kernels, stream, tensors, count, call, {counters.pointer, histograms.pointer, 0, 0, count}));
  const auto found = copied<Counters>(driver, counters, count, stream);
  const auto found_bins = copied<std::uint32_t>(driver, histograms, bins, stream);
  require(driver, driver.stream_synchronize(stream));
  Taken taken;
  for (std::size_t i = 0; i < count; ++i) {
    const Tensor& tensor = tensors[i];
    taken.rows.push_back(finish(found[i], elements_of(tensor), whole_of(tensor), flags_of(tensor, call)));
    taken.rows.back().order = static_cast<std::int64_t>(i);
    taken.rows.back().site = tensors[i].site;
    if (call.histogram) pack_bins(found_bins.data() + i * histogram_bins, taken.rows.back(), taken.bins);
  }
  return taken;
}

}  // namespace tetrace::fp8
