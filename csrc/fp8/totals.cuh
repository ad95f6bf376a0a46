// What a thread adds up, and how a block brings it to the counters of its tensor.
#pragma once

#include "fp8/launch.h"
#include "fp8/numbers.cuh"

namespace tetrace::fp8 {

// Magnitudes between these, before and after scaling, have squares and sums of squares well inside fp32.
constexpr float least_fast = 8.8817842e-16f;  // 2^-50
constexpr float most_fast = 1.1529215e18f;    // 2^60

// What a thread loads at once: vectors of a row, zero where there is nothing.
template <int loads>
struct Tile {
  uint4 loaded[loads];
  bool valid[loads];
  u32 row;
  u64 column;       // of the first element of the first vector
  u32 column_step;  // to that of the next vector
};

// Sums of a few tiles in fp32, and of all in fp64. Counts of a few tiles are halves of words.
struct Totals {
  double sum = 0, square_sum = 0, squared_error = 0;
  float sums[2] = {0, 0}, squares[2] = {0, 0}, errors[2] = {0, 0};
  u32 nonzero = 0, beyond = 0, above = 0, normal = 0;
  u32 few_nonzero = 0, few_beyond = 0, few_above = 0, few_normal = 0;
  u32 nans = 0, infs = 0;
  u32 amax = 0, smallest = ~0u;  // bits of a float

  // In the format's own units where the scale is the tensor's: `error_unit` makes squares of values of it.
  __device__ void gather(double error_unit) {
    sum += static_cast<double>(sums[0] + sums[1]);
    square_sum += static_cast<double>(squares[0] + squares[1]);
    squared_error += static_cast<double>(errors[0] + errors[1]) * error_unit;
    sums[0] = sums[1] = squares[0] = squares[1] = errors[0] = errors[1] = 0;
    nonzero += sum_of_halves(few_nonzero);
    beyond += sum_of_halves(few_beyond);
    above += sum_of_halves(few_above);
    normal += sum_of_halves(few_normal);
    few_nonzero = few_beyond = few_above = few_normal = 0;
  }

  __device__ void widen_range(u32 largest_bits, u32 smallest_bits) {
    amax = max(amax, largest_bits);
    smallest = min(smallest, smallest_bits);
  }

  // A value whose square fp32 may not hold, or that is not finite.
  __device__ void add_alone(float value) {
    const u32 bits = __float_as_uint(value) & 0x7FFFFFFFu;
    if (bits > float_infinity) {
      ++nans;
    } else if (bits == float_infinity) {
      ++infs;
    } else if (bits != 0) {
      sum += static_cast<double>(value);
      square_sum += static_cast<double>(value) * static_cast<double>(value);
      widen_range(bits, bits);
    }
  }
  // What casting a finite value loses, with any scale that can be used.
  __device__ void add_error_alone(float value, float scale, double unit, const Bounds& bounds) {
    const float product = fabsf(value) * scale;
    if (!(fabsf(value) < __uint_as_float(float_infinity))) return;
    double lost = static_cast<double>(rounding(product, bounds.smallest_normal, bounds.magic));
    if (product > bounds.max) lost = static_cast<double>(fabsf(value)) / sqrt(unit) - static_cast<double>(bounds.max);
    squared_error += lost * lost * unit;
  }
};

template <class T>
__device__ T warp_sum(T value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
  return value;
}

__device__ inline void add_up(u64* to, u64 value) {
  if (value != 0) atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
__device__ inline void add_up(double* to, double value) {
  if (value != 0) atomicAdd(to, value);
}

// Each warp's sums meet in shared memory, then one lane a field adds them to the tensor's.
__device__ inline void reduce(const Totals& own, Counters* counters) {
  constexpr int warps = threads_per_block / 32;
  __shared__ u64 counts[6][warps];
  __shared__ double sums[3][warps];
  __shared__ u32 ranges[2][warps];
  const u32 warp = threadIdx.x / 32;
  const u32 fields[6] = {own.nonzero, own.nans, own.infs, own.beyond, own.above, own.normal};
  const double values[3] = {own.sum, own.square_sum, own.squared_error};
#pragma unroll
  for (int i = 0; i < 6; ++i) {
    const u32 low = __reduce_add_sync(~0u, fields[i] & 0xFFFFFFu);
    const u32 high = __reduce_add_sync(~0u, fields[i] >> 24);
    counts[i][warp] = (static_cast<u64>(high) << 24) + low;
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) sums[i][warp] = warp_sum(values[i]);
  ranges[0][warp] = __reduce_max_sync(~0u, own.amax);
  ranges[1][warp] = __reduce_max_sync(~0u, ~own.smallest);
  __syncthreads();
  const u32 field = threadIdx.x;
  if (field < 6) {
    u64 total = 0;
    for (int i = 0; i < warps; ++i) total += counts[field][i];
    add_up(&counters->nonzero + field, total);
  } else if (field < 9) {
    double total = 0;
    for (int i = 0; i < warps; ++i) total += sums[field - 6][i];
    add_up(&counters->sum + (field - 6), total);
  } else if (field < 11) {
    u32 most = 0;
    for (int i = 0; i < warps; ++i) most = max(most, ranges[field - 9][i]);
    if (most != 0) atomicMax(&counters->amax + (field - 9), most);
  }
}

}  // namespace tetrace::fp8
