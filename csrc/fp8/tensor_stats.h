// Tensors of one call to launches on a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fp8/inspector.h"
#include "fp8/kernels.h"
#include "fp8/launch.h"

namespace tetrace::fp8 {

// Where the device adds up: counters, and histograms of 2048 where the call wants them. The tensors have slots in turn
// from `first` and `first_bins` on, modulo `capacity`; they must be zero.
struct Target {
  Pointer counters = 0;
  Pointer histograms = 0;
  std::uint64_t first = 0;
  std::uint64_t first_bins = 0;
  std::uint64_t capacity = 0;
};

// Throws for what no launch could read.
void check(const Tensor* tensors, std::size_t count, const Call& call);

// The driver's answer. Tensors without elements take their slot, and no launch.
int launch(const Kernels& kernels, Stream stream, const Tensor* tensors, std::size_t count, const Call& call,
           const Target& target);

std::uint64_t elements_of(const Tensor& tensor);
// Of all of its rows.
std::uint64_t whole_of(const Tensor& tensor);
std::uint32_t flags_of(const Tensor& tensor, const Call& call);

// What a row says of counters.
Row finish(const Counters& counters, std::uint64_t elements, std::uint64_t whole, std::uint32_t flags);

}  // namespace tetrace::fp8
