// What is known of one observed tensor: 128 bytes, little-endian. tetrace/fp8/rows.py has the same as a numpy dtype, and
// docs/fp8.md says what is counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tetrace::fp8 {

enum class Format : std::uint8_t { none = 0, e4m3 = 1, e5m2 = 2 };

// How scales lie over a tensor.
enum class Layout : std::uint8_t {
  tensor = 0,   // one scale
  rows = 1,     // one for 128 elements of a row; scale [column block][row]
  squares = 2,  // one for 128 by 128 elements; scale [row block][column block]
  mx = 3,       // one byte, E8M0, for 32 elements of a row; scale [row][column block]
};

namespace flag {
constexpr std::uint32_t histogram = 1u << 0;     // counts of its bins were kept
constexpr std::uint32_t format_known = 1u << 1;  // saturated, flushed, subnormal and squared_error say something
constexpr std::uint32_t quantized = 1u << 2;     // the source is FP8 data
constexpr unsigned format_shift = 8;             // 8 bits of Format
constexpr unsigned layout_shift = 16;            // 8 bits of Layout
constexpr std::uint32_t sampled = 1u << 24;      // of some of the rows of the tensor only
}  // namespace flag

struct Row {
  std::int64_t order;  // number of the observation in its process
  std::uint64_t elements;
  std::uint64_t zeros;
  std::uint64_t nans;
  std::uint64_t infs;
  std::uint64_t saturated;
  std::uint64_t flushed;
  std::uint64_t subnormal;
  double sum;  // of finite values, as the next two
  double square_sum;
  double squared_error;  // NaN where the scale is no finite positive number
  std::int32_t site;
  std::int32_t step;
  float amax;      // of finite values
  float smallest;  // magnitude that is not zero; 0 where there is none
  float scale;     // what a value is multiplied by before it is cast; 0 where there is none, or one a block
  float scale_min;  // of the blocks that the tensor has
  float scale_max;
  std::uint32_t flags;
  std::uint64_t whole;  // elements of the tensor; more than `elements` where only some of its rows were looked at
};
static_assert(sizeof(Row) == 128);

// By |x| as fp32: a quarter of a binade has one bin for its lower edge and one for what lies above it.
constexpr int histogram_bins = 2048;

// Elements of one tensor that lie in one bin.
struct BinCount {
  std::int64_t order;
  std::int32_t bin;
  std::uint32_t count;
};
static_assert(sizeof(BinCount) == 16);

// Histograms as words, since every byte of them is copied in each step: by stretches of neighbouring bins, each the order
// (two words, the lower first), the first bin with the number of bins in the upper half, and their counts.
using PackedBins = std::vector<std::uint32_t>;

}  // namespace tetrace::fp8
