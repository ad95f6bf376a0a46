// Tiles of bf16 or fp16 with one scale for the tensor: counts on two elements at a time, sums in fp32 where that holds them.
#pragma once

#include "fp8/bins.cuh"
#include "fp8/casts.cuh"
#include "fp8/launch.h"
#include "fp8/numbers.cuh"
#include "fp8/totals.cuh"

namespace tetrace::fp8 {

template <class S, bool has_format, class B>
class Packed {
 public:
  static constexpr int vector_elements = 8;
  static constexpr int tile_elements = vector_elements * loads_per_thread;
  static constexpr int tiles_before_gather = 8;  // 256 elements of a thread

  template <class Batch>
  __device__ void start(const Batch& batch, const Task& task) {
    bins_.start();
    bounds_ = batch.bounds;
    scale_ = 1.0f;
    double unit = 1;
    if (has_format && task.scale != nullptr) {
      scale_ = *static_cast<const float*>(task.scale);
      unit = static_cast<double>(scale_);
      if (batch.is_inverse) scale_ = 1.0f / scale_;
      if (!batch.is_inverse) unit = 1.0 / unit;
    }
    unit_ = unit * unit;
    usable_ = is_usable(scale_);
    is_e4m3_ = bounds_.max == 448.0f;
    prepare();
  }

  __device__ void add_tile(const Tile<loads_per_thread>& tile) {
    u32 words[tile_elements / 2];
#pragma unroll
    for (int i = 0; i < loads_per_thread; ++i) {
      words[4 * i] = tile.loaded[i].x;
      words[4 * i + 1] = tile.loaded[i].y;
      words[4 * i + 2] = tile.loaded[i].z;
      words[4 * i + 3] = tile.loaded[i].w;
    }
    u32 largest = 0, smallest = ~0u;
#pragma unroll
    for (int i = 0; i < tile_elements / 2; ++i) {
      const u32 magnitudes = words[i] & 0x7FFF7FFFu;
      largest = __vmaxu2(largest, magnitudes);
      smallest = __vminu2(smallest, magnitudes);
    }
    const u32 most = larger_half(largest);
    u32 least = smaller_half(smallest), zeros = 0;
    totals_.few_nonzero += both(tile_elements / 2);
    if (least == 0) zeros = forget_zeros(words, least);
    if (has_format) count_rounded(words, halves_above(smallest, minus_subnormal_) == both(1));
    const float top = S::widen(most), bottom = S::widen(least);
    bool is_easy = most - lowest_ < width_;
    if constexpr (B::kept) {
      bins_.place_window(is_easy ? exponent_of(__float_as_uint(top)) : 0);
      is_easy = is_easy && bins_.holds(exponent_of(__float_as_uint(bottom)), exponent_of(__float_as_uint(top)));
    }
    if (is_easy) {
      totals_.widen_range(__float_as_uint(top), __float_as_uint(bottom));
      add_sums(words, most > saturated_);
      bins_.forget_zeros(zeros);
    } else if (most != 0) {
      add_slowly(words);
    }
  }

  __device__ void gather() { totals_.gather(unit_); }

  __device__ void finish(const Task& task, Counters* counters, u32* histogram, bool is_first) {
    gather();
    bins_.finish(histogram);
    reduce(totals_, counters);
    if (has_format && is_first && threadIdx.x == 0) {
      const u32 bits = __float_as_uint(scale_);
      counters->scale = bits;
      if (!usable_) atomicAdd(&counters->squared_error, __longlong_as_double(0x7FF8000000000000));
    }
  }

 private:
  // The limits of the format in the bits of S. A scale that cannot be used: everything is normal.
  __device__ void prepare() {
    u32 flushed = 0, subnormal = 0;
    saturated_ = S::largest;
    if (has_format && usable_) {
      flushed = last_within<S>(bounds_.flush, scale_, true);
      subnormal = last_within<S>(bounds_.normal, scale_, false);
      saturated_ = last_within<S>(bounds_.max, scale_, true);
    }
    minus_flushed_ = minus_both(flushed);
    minus_subnormal_ = minus_both(subnormal);
    minus_saturated_ = minus_both(saturated_);
    const float ratio = has_format && usable_ ? scale_ : 1.0f;
    lowest_ = max(S::truncate(least_fast / fminf(ratio, 1.0f)), 1u);
    const u32 highest = min(S::truncate(most_fast / fmaxf(ratio, 1.0f)), S::largest);
    width_ = (has_format && !usable_) || highest < lowest_ ? 0 : highest - lowest_ + 1;
  }

  // Of a tile with some, which were counted as if they were values. `least` becomes the smallest magnitude that is not
  // zero, 0x10000 where all are.
  __device__ u32 forget_zeros(const u32 (&words)[tile_elements / 2], u32& least) {
    u32 nonzero = 0, smallest = ~0u;
#pragma unroll
    for (int i = 0; i < tile_elements / 2; ++i) {
      const u32 magnitudes = words[i] & 0x7FFF7FFFu;
      smallest = __viaddmin_u16x2(magnitudes, 0xFFFFFFFFu, smallest);
      nonzero += __vminu2(magnitudes, 0x00010001u);
    }
    totals_.few_nonzero += nonzero - both(tile_elements / 2);
    least = smaller_half(smallest) + 1;
    return tile_elements - sum_of_halves(nonzero);
  }

  // Most tiles have no element that is flushed or subnormal.
  __device__ void count_rounded(const u32 (&words)[tile_elements / 2], bool all_normal) {
    if (all_normal) {
      totals_.few_above += both(tile_elements / 2);
      totals_.few_normal += both(tile_elements / 2);
      return;
    }
#pragma unroll
    for (int i = 0; i < tile_elements / 2; ++i) {
      const u32 magnitudes = words[i] & 0x7FFF7FFFu;
      totals_.few_above += halves_above(magnitudes, minus_flushed_);
      totals_.few_normal += halves_above(magnitudes, minus_subnormal_);
    }
  }

  __device__ void add_sums(const u32 (&words)[tile_elements / 2], bool is_clipped) {
    if constexpr (!has_format) {
      add_sums<Cast::none>(words);
    } else {
      if (has_casts && is_e4m3_) {
        add_sums<Cast::e4m3>(words);
      } else if (has_casts) {
        add_sums<Cast::e5m2>(words);
      } else if (is_clipped) {
        add_sums<Cast::clipping>(words);
      } else {
        add_sums<Cast::rounding>(words);
      }
      if (!is_clipped) return;
#pragma unroll
      for (int i = 0; i < tile_elements / 2; ++i) {
        totals_.few_beyond += halves_above(words[i] & 0x7FFF7FFFu, minus_saturated_);
      }
    }
  }

  template <Cast cast>
  __device__ void add_sums(const u32 (&words)[tile_elements / 2]) {
#pragma unroll
    for (int i = 0; i < tile_elements / 2; ++i) {
      float pair[2];
      S::widen(words[i], pair[0], pair[1]);
      if (B::kept) count_bins(words[i]);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        totals_.sums[j] += pair[j];
        totals_.squares[j] = fmaf(pair[j], pair[j], totals_.squares[j]);
      }
      if (cast == Cast::none) continue;
      const float products[2] = {pair[0] * scale_, pair[1] * scale_};
      float lost[2];
      lost_in<cast>(products, bounds_, lost);
#pragma unroll
      for (int j = 0; j < 2; ++j) totals_.errors[j] = fmaf(lost[j], lost[j], totals_.errors[j]);
    }
  }

  __device__ void count_bins(u32 word) {
    if (S::largest == Bf16::largest) {
      bins_.add_bf16(word);
    } else {
      bins_.add(__float_as_uint(S::widen(word & 0x7FFFu)));
      bins_.add(__float_as_uint(S::widen((word >> 16) & 0x7FFFu)));
    }
  }

  // A tile with values that are not finite or far from 1, or with some that are outside the window of the bins: its sums go
  // this way too, so that the fast way through a tile is one branch. The words are moved along, since registers have no
  // index.
  __device__ void add_slowly(u32 (&words)[tile_elements / 2]) {
#pragma unroll 1
    for (int i = 0; i < tile_elements; ++i) {
      const u32 half = words[0] & 0xFFFFu;
      words[0] >>= 16;
      if (i % 2 == 1) {
#pragma unroll
        for (int j = 0; j + 1 < tile_elements / 2; ++j) words[j] = words[j + 1];
      }
      const float value = (half & 0x8000u) != 0 ? -S::widen(half & 0x7FFFu) : S::widen(half);
      const u32 bits = __float_as_uint(value) & 0x7FFFFFFFu;
      if (B::kept && bits != 0 && bits < float_infinity) bins_.add_outside(bits);
      totals_.add_alone(value);
      if (has_format) totals_.few_beyond += is_above(half & 0x7FFFu, saturated_);
      if (has_format && usable_) totals_.add_error_alone(value, scale_, unit_, bounds_);
    }
  }

  Totals totals_;
  B bins_;
  Bounds bounds_;
  float scale_;
  double unit_;
  bool usable_, is_e4m3_;
  u32 minus_flushed_, minus_subnormal_, minus_saturated_, saturated_;
  u32 lowest_, width_;
};

}  // namespace tetrace::fp8
