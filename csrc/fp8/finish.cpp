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

}  // namespace tetrace::fp8
