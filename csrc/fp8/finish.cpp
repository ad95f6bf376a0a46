// From what the device added up to what a row says.
#include <cstring>

#include "fp8/tensor_stats.h"

namespace tetrace::fp8 {
namespace {

float as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Of a magnitude that is finite and not zero, as csrc/fp8/bins.cuh has it on the device.
int bin_of(float magnitude) {
  std::uint32_t bits;
  std::memcpy(&bits, &magnitude, sizeof(bits));
  return static_cast<int>((bits >> 21) * 2) + ((bits & 0x1FFFFFu) != 0 ? 1 : 0);
}

// Of a least value, kept inverted so that nothing is 0.
float as_least(std::uint32_t inverted) { return inverted == 0 ? 0.0f : as_float(~inverted); }

}  // namespace

Row finish(const Counters& counters, std::uint64_t elements, std::uint64_t whole, std::uint32_t flags) {
  Row row{};
  row.elements = elements;
  row.zeros = elements - counters.nonzero;
  row.nans = counters.nans;
  row.infs = counters.infs;
  if ((flags & flag::format_known) != 0) {
    row.saturated = counters.beyond - counters.nans - counters.infs;
    row.flushed = counters.nonzero - counters.above;
    row.subnormal = counters.above - counters.normal;
    row.squared_error = counters.squared_error;
  }
  row.sum = counters.sum;
  row.square_sum = counters.square_sum;
  row.amax = as_float(counters.amax);
  row.smallest = as_least(counters.smallest);
  row.scale = as_float(counters.scale);
  row.scale_min = as_least(counters.scale_min);
  row.scale_max = as_float(counters.scale_max);
  row.flags = flags;
  row.whole = whole;
  return row;
}

// Between the smallest and the largest value: of 2048 bins most lie outside.
void gather_bins(const std::uint32_t* histogram, const Row& row, std::vector<BinCount>& bins) {
  if (row.amax == 0) return;
  const int last = bin_of(row.amax);
  for (int bin = bin_of(row.smallest); bin <= last; ++bin) {
    if (histogram[bin] != 0) bins.push_back({row.order, bin, histogram[bin]});
  }
}

}  // namespace tetrace::fp8
