// Vectors of any element type, one by one as fp32, with one scale for the tensor or one for each block of it.
#pragma once

#include "fp8/bins.cuh"
#include "fp8/launch.h"
#include "fp8/numbers.cuh"
#include "fp8/row.h"
#include "fp8/totals.cuh"

namespace tetrace::fp8 {

// Element types: how many are in a vector, and what they are.
struct Fp32 {
  static constexpr int in_vector = 4;
  static constexpr bool is_code = false;
  __device__ static float value(const uint4& vector, int i) { return __uint_as_float((&vector.x)[i]); }
};

template <class S>
struct Halves {
  static constexpr int in_vector = 8;
  static constexpr bool is_code = false;
  __device__ static float value(const uint4& vector, int i) {
    const u32 half = ((&vector.x)[i / 2] >> (i % 2 * 16)) & 0xFFFFu;
    return __uint_as_float(__float_as_uint(S::widen(half & 0x7FFFu)) | ((half & 0x8000u) << 16));
  }
};

// FP8 codes: sign and magnitude. `largest` and what follows are magnitudes.
template <Format format>
struct Codes {
  static constexpr int in_vector = 16;
  static constexpr bool is_code = true;
  static constexpr bool is_e4m3 = format == Format::e4m3;
  static constexpr u32 largest = is_e4m3 ? 0x7E : 0x7B;
  static constexpr u32 infinity = is_e4m3 ? 0x7F : 0x7C;  // E4M3 has none: what would be is NaN
  static constexpr u32 smallest_normal = is_e4m3 ? 0x08 : 0x04;
  __device__ static u32 code(const uint4& vector, int i) { return ((&vector.x)[i / 4] >> (i % 4 * 8)) & 0xFFu; }
  __device__ static float value(const uint4& vector, int i) {
    const u32 bits = code(vector, i);
    const u32 magnitude = bits & 0x7Fu;
    // E4M3's fields in fp32's places: the exponent's bias is 120 less. E5M2 is the upper half of fp16.
    float found = is_e4m3 ? __uint_as_float(magnitude << 20) * __uint_as_float((127u + 120u) << 23)
                          : Fp16::widen(magnitude << 8);
    if (is_e4m3 && magnitude > largest) found = __uint_as_float(0x7FC00000u);
    return (bits & 0x80u) != 0 ? -found : found;
  }
};

// The scale of a block, as a value is multiplied by it before it is cast, and its inverse.
struct BlockScale {
  float scale = 1, inverse = 1;
  bool usable = true;
};

__device__ inline BlockScale block_scale(const Task& task, Layout layout, u32 row, u64 column) {
  BlockScale found;
  if (layout == Layout::mx) {
    const auto* exponents = static_cast<const std::uint8_t*>(task.scale);
    const u32 exponent = exponents[static_cast<u64>(row) * task.scale_stride + column / 32];
    found.usable = exponent != 255;
    found.inverse = exponent == 0 ? 5.8774718e-39f : __uint_as_float(exponent << 23);
    found.scale = exponent == 254 ? 5.8774718e-39f : __uint_as_float((254u - exponent) << 23);
    return found;
  }
  const u64 first = layout == Layout::rows ? column / 128 : row / 128;
  const u64 second = layout == Layout::rows ? row : column / 128;
  found.inverse = static_cast<const float*>(task.scale)[first * task.scale_stride + second];
  found.scale = 1.0f / found.inverse;
  found.usable = is_usable(found.scale);
  return found;
}

template <class S, bool has_format, bool has_blocks, class B>
class Floats {
 public:
  static constexpr int vector_elements = S::in_vector;
  static constexpr int tiles_before_gather = 8;

  template <class Batch>
  __device__ void start(const Batch& batch, const Task& task) {
    bins_.start();
    task_ = &task;
    layout_ = static_cast<Layout>(batch.layout);
    bounds_ = batch.bounds;
    if (has_blocks || task.scale == nullptr) return;
    if (has_format || S::is_code) {
      const float given = *static_cast<const float*>(task.scale);
      const float other = 1.0f / given;
      scale_.scale = batch.is_inverse ? other : given;
      scale_.inverse = batch.is_inverse ? given : other;
      scale_.usable = is_usable(scale_.scale);
    }
  }

  __device__ void add_tile(const Tile<loads_per_thread>& tile) {
#pragma unroll
    for (int i = 0; i < loads_per_thread; ++i) {
      if (has_blocks && tile.valid[i]) {
        scale_ = block_scale(*task_, layout_, tile.row, tile.column + static_cast<u64>(i) * tile.column_step);
        scale_min_ = min(scale_min_, __float_as_uint(scale_.scale));
        scale_max_ = max(scale_max_, __float_as_uint(scale_.scale));
      }
      add_vector(tile.loaded[i]);
    }
  }

  __device__ void gather() { totals_.gather(1.0); }

  __device__ void finish(const Task&, Counters* counters, u32* histogram, bool is_first) {
    gather();
    bins_.finish(histogram);
    reduce(totals_, counters);
    if (has_blocks) {
      const u32 least = __reduce_max_sync(~0u, ~scale_min_), most = __reduce_max_sync(~0u, scale_max_);
      if (threadIdx.x % 32 == 0) {
        atomicMax(&counters->scale_min, least);
        atomicMax(&counters->scale_max, most);
      }
    } else if ((has_format || S::is_code) && is_first && threadIdx.x == 0) {
      counters->scale = __float_as_uint(scale_.scale);
      if (!scale_.usable) atomicAdd(&counters->squared_error, __longlong_as_double(0x7FF8000000000000));
    }
  }

 private:
  __device__ void add_vector(const uint4& vector) {
    float values[vector_elements];
    u32 largest = 0, smallest = ~0u;
#pragma unroll
    for (int i = 0; i < vector_elements; ++i) {
      values[i] = S::value(vector, i);
      if (S::is_code) values[i] *= scale_.inverse;
      const u32 bits = __float_as_uint(values[i]) & 0x7FFFFFFFu;
      largest = max(largest, bits);
      smallest = min(smallest, bits - 1);
    }
    ++smallest;
    if constexpr (S::is_code) {
      count_codes(vector);
    } else {
      count_values(values);
    }
    const bool is_easy = is_fast(largest);
    if (is_easy) add_sums(values, largest, smallest);
    if (B::kept) bins_.place_window(is_easy ? exponent_of(largest) : 0);
    const bool is_held = is_easy && bins_.holds(exponent_of(smallest), exponent_of(largest));
    if (B::kept && is_held) add_bins(values);
    if (largest != 0 && !is_held) add_slowly(vector, is_easy);
  }

  __device__ bool is_fast(u32 largest) const {
    const float most = __uint_as_float(largest);
    const float product = has_format ? most * scale_.scale : most;
    return fminf(most, product) >= least_fast && fmaxf(most, product) <= most_fast && (!has_format || scale_.usable);
  }

  __device__ void count_values(const float (&values)[vector_elements]) {
#pragma unroll
    for (int i = 0; i < vector_elements; ++i) {
      const u32 bits = __float_as_uint(values[i]) & 0x7FFFFFFFu;
      const u32 nonzero = min(bits, 1u);
      totals_.few_nonzero += nonzero;
      if (!has_format) continue;
      if (!scale_.usable) {
        totals_.few_above += nonzero;
        totals_.few_normal += nonzero;
        totals_.few_beyond += is_above(bits, float_infinity - 1);
        continue;
      }
      const u32 product = __float_as_uint(__uint_as_float(bits) * scale_.scale);
      totals_.few_beyond += is_above(product, __float_as_uint(bounds_.max));
      totals_.few_above += is_above(product, __float_as_uint(bounds_.flush));
      totals_.few_normal += is_above(product, __float_as_uint(bounds_.normal) - 1);
    }
  }

  // Counts only codes whose scale can be used; the others have no value.
  __device__ void count_codes(const uint4& vector) {
#pragma unroll
    for (int i = 0; i < vector_elements; ++i) {
      const u32 magnitude = S::code(vector, i) & 0x7Fu;
      const u32 nonzero = min(magnitude, 1u);
      totals_.few_nonzero += nonzero;
      totals_.few_above += nonzero;
      totals_.few_beyond += is_above(magnitude, S::largest - 1);
      totals_.few_normal += is_above(magnitude, S::smallest_normal - 1);
      if (magnitude > S::largest) {
        const bool is_inf = !S::is_e4m3 && magnitude == S::infinity;
        totals_.infs += is_inf;
        totals_.nans += !is_inf;
      }
    }
  }

  __device__ void add_sums(const float (&values)[vector_elements], u32 largest, u32 smallest) {
    totals_.widen_range(largest, smallest);
    float lost_squares = 0;
#pragma unroll
    for (int i = 0; i < vector_elements; ++i) {
      totals_.sums[i % 2] += values[i];
      totals_.squares[i % 2] = fmaf(values[i], values[i], totals_.squares[i % 2]);
      if (!has_format) continue;
      const float product = values[i] * scale_.scale;
      float lost = rounding(product, bounds_.smallest_normal, bounds_.magic);
      if (fabsf(product) > bounds_.max) lost = fabsf(product) - bounds_.max;
      lost_squares = fmaf(lost, lost, lost_squares);
    }
    if (has_format) {
      const double inverse = static_cast<double>(scale_.inverse);
      totals_.squared_error += static_cast<double>(lost_squares) * (inverse * inverse);
    }
  }

  __device__ void add_bins(const float (&values)[vector_elements]) {
    u32 zeros = 0;
#pragma unroll
    for (int i = 0; i < vector_elements; ++i) {
      const u32 bits = __float_as_uint(values[i]) & 0x7FFFFFFFu;
      zeros += bits == 0;
      bins_.add(bits);
    }
    bins_.forget_zeros(zeros);
  }

  __device__ void add_slowly(const uint4& vector, bool sums_are_done) {
    const double unit = static_cast<double>(scale_.inverse) * static_cast<double>(scale_.inverse);
#pragma unroll
    for (int i = 0; i < vector_elements; ++i) {
      float value = S::value(vector, i);
      if (S::is_code) value *= scale_.inverse;
      const u32 bits = __float_as_uint(value) & 0x7FFFFFFFu;
      if (B::kept && bits != 0 && bits < float_infinity) bins_.add_outside(bits);
      if (sums_are_done || (S::is_code && bits >= float_infinity)) continue;
      totals_.add_alone(value);
      if (has_format && scale_.usable) totals_.add_error_alone(value, scale_.scale, unit, bounds_);
    }
    if (has_format && has_blocks && !scale_.usable) totals_.squared_error = __longlong_as_double(0x7FF8000000000000);
  }

  Totals totals_;
  B bins_;
  Bounds bounds_;
  BlockScale scale_;
  const Task* task_ = nullptr;
  Layout layout_ = Layout::tensor;
  u32 scale_min_ = ~0u, scale_max_ = 0;
};

}  // namespace tetrace::fp8
