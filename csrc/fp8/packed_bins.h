// Histograms as they are taken and kept (csrc/fp8/row.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fp8/row.h"

namespace tetrace::fp8 {

// Adds the bins of a row's tensor that are not empty.
void pack_bins(const std::uint32_t* histogram, const Row& row, PackedBins& bins);

// The bins that are not empty. Of words that were cut off, without those of the order at the cut.
std::vector<BinCount> unpack_bins(const std::uint32_t* words, std::size_t size, bool is_cut);

constexpr std::size_t stretch_words = 3;  // before the counts

inline std::int64_t order_of_stretch(const std::uint32_t* words) {
  return static_cast<std::int64_t>(std::uint64_t{words[1]} << 32 | words[0]);
}
inline std::size_t bins_of_stretch(const std::uint32_t* words) { return words[2] >> 16; }

// Each stretch gets the order that `renumber` returns for its own.
template <class Renumber>
void renumber_bins(PackedBins& bins, const Renumber& renumber) {
  for (std::size_t at = 0; at < bins.size(); at += stretch_words + bins_of_stretch(&bins[at])) {
    const auto order = static_cast<std::uint64_t>(renumber(order_of_stretch(&bins[at])));
    bins[at] = static_cast<std::uint32_t>(order);
    bins[at + 1] = static_cast<std::uint32_t>(order >> 32);
  }
}

}  // namespace tetrace::fp8
