#include "fp8/packed_bins.h"

#include <cstring>

namespace tetrace::fp8 {
namespace {

// Of a magnitude that is finite and not zero, as csrc/fp8/bins.cuh has it on the device.
int bin_of(float magnitude) {
  std::uint32_t bits;
  std::memcpy(&bits, &magnitude, sizeof(bits));
  return static_cast<int>((bits >> 21) * 2) + ((bits & 0x1FFFFFu) != 0 ? 1 : 0);
}

// Where the stretch ends that begins at `first`: before more empty bins than the head of another one has words.
int end_of_stretch(const std::uint32_t* histogram, int first, int last) {
  int end = first + 1;
  for (int bin = end; bin <= last && bin - end <= static_cast<int>(stretch_words); ++bin) {
    if (histogram[bin] != 0) end = bin + 1;
  }
  return end;
}

}  // namespace

// Between the smallest and the largest value: of 2048 bins most lie outside.
void pack_bins(const std::uint32_t* histogram, const Row& row, PackedBins& bins) {
  if (row.amax == 0) return;
  const int last = bin_of(row.amax);
  const auto order = static_cast<std::uint64_t>(row.order);
  for (int first = bin_of(row.smallest); first <= last;) {
    if (histogram[first] == 0) {
      ++first;
      continue;
    }
    const int end = end_of_stretch(histogram, first, last);
    bins.push_back(static_cast<std::uint32_t>(order));
    bins.push_back(static_cast<std::uint32_t>(order >> 32));
    bins.push_back(static_cast<std::uint32_t>(first) | static_cast<std::uint32_t>(end - first) << 16);
    bins.insert(bins.end(), histogram + first, histogram + end);
    first = end;
  }
}

std::vector<BinCount> unpack_bins(const std::uint32_t* words, std::size_t size, bool is_cut) {
  std::vector<BinCount> bins;
  std::size_t at = 0;
  while (at + stretch_words <= size && at + stretch_words + bins_of_stretch(words + at) <= size) {
    const std::int64_t order = order_of_stretch(words + at);
    const auto first = static_cast<std::int32_t>(words[at + 2] & 0xFFFFu);
    const std::size_t count = bins_of_stretch(words + at);
    at += stretch_words;
    for (std::size_t i = 0; i < count; ++i, ++at) {
      if (words[at] != 0) bins.push_back({order, first + static_cast<std::int32_t>(i), words[at]});
    }
  }
  if (!is_cut || bins.empty()) return bins;
  const std::int64_t cut = at + stretch_words <= size ? order_of_stretch(words + at) : bins.back().order;
  while (!bins.empty() && bins.back().order == cut) bins.pop_back();
  return bins;
}

}  // namespace tetrace::fp8
