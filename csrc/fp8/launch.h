// What a launch takes and what it leaves: shared by the host (g++) and the device (nvcc), so plain C++17.
#pragma once

#include <cstdint>

namespace tetrace::fp8 {

// One tensor of a launch.
struct Task {
  const void* data;
  const void* scale;  // may be null
  std::uint64_t columns;
  std::uint64_t row_stride;  // elements
  std::uint32_t rows;
  std::uint32_t scale_stride;  // elements
  std::uint32_t first_block;
  std::uint32_t slot;   // of its counters
  std::uint16_t lanes;  // threads of a block that share a row; a power of two
  std::uint16_t loads;  // of each thread in a tile
  std::uint32_t bins;   // slot of its histogram
};
static_assert(sizeof(Task) == 56);

// What is added up on the device, from zero. What a row says follows from it (csrc/fp8/finish.cpp); counts that end in a
// comparison hold values that are not finite, too.
struct Counters {
  std::uint64_t nonzero;
  std::uint64_t nans;
  std::uint64_t infs;
  std::uint64_t beyond;  // the format's largest value
  std::uint64_t above;   // what is rounded to zero
  std::uint64_t normal;  // rounded to a value that is not subnormal, or more
  double sum;            // of finite values, as what follows
  double square_sum;
  double squared_error;
  std::uint32_t amax;           // bits of a float
  std::uint32_t smallest;       // inverted, so that 0 is none
  std::uint32_t scale;          // bits of a float
  std::uint32_t scale_min;      // inverted
  std::uint32_t scale_max;
  std::uint32_t reserved[9];
};
static_assert(sizeof(Counters) == 128);

// Properties of a format, as fp32.
struct Bounds {
  float max;
  float flush;           // half of the smallest subnormal: up to here, a value is rounded to zero
  float normal;          // from here on, it is rounded to a normal one
  float smallest_normal;
  float magic;           // adding 1.5 * 2^(23 - mantissa bits) times a value's power of two rounds it
};

template <int most>
struct Batch {
  Counters* counters;         // by slot
  std::uint32_t* histograms;  // 2048 by slot of histograms
  std::uint32_t count;
  std::uint32_t layout;
  std::uint32_t is_inverse;  // `scale` is what codes are multiplied by
  Bounds bounds;
  Task tasks[most];
};
static_assert(sizeof(Batch<64>) <= 4096, "parameters of a kernel before CUDA 12.1");

constexpr int threads_per_block = 256;
constexpr int loads_per_thread = 4;  // of 16 bytes, in flight
// Counters of a word for each of 32 lanes: 64 binades, quarters of them, twice (csrc/fp8/bins.cuh); then all 2048 bins once,
// and the exponent that the window is placed by.
constexpr int window_bytes = 64 * 4 * 2 * 32 * 4;
constexpr int histogram_shared_bytes = window_bytes + 2048 * 4 + 16;

}  // namespace tetrace::fp8
