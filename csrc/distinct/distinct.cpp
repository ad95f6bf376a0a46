#include "distinct/distinct.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "common/error.h"

namespace tetrace::distinct {
namespace {

// Open addressing over places in the list of distinct values, in order of first appearance.
class Places {
 public:
  explicit Places(std::vector<std::int64_t>& values) : values_(values), slots_(1024, -1) {}

  std::int32_t operator()(std::int64_t value) {
    // Half full at most, so that a probe ends soon.
    if (2 * values_.size() >= slots_.size()) grow();
    std::int32_t& slot = find(value);
    if (slot < 0) {
      slot = static_cast<std::int32_t>(values_.size());
      values_.push_back(value);
    }
    return slot;
  }

 private:
  std::int32_t& find(std::int64_t value) {
    const std::size_t mask = slots_.size() - 1;
    // Fibonacci hashing: the high bits of the product mix ids that differ in their low bits only.
    std::size_t at = (static_cast<std::uint64_t>(value) * 0x9E3779B97F4A7C15ull) >> 32;
    for (at &= mask; slots_[at] >= 0 && values_[static_cast<std::size_t>(slots_[at])] != value;) at = (at + 1) & mask;
    return slots_[at];
  }

  void grow() {
    slots_.assign(4 * slots_.size(), -1);
    for (std::size_t place = 0; place < values_.size(); ++place) find(values_[place]) = static_cast<std::int32_t>(place);
  }

  std::vector<std::int64_t>& values_;
  std::vector<std::int32_t> slots_;
};

// Values in a range not much wider than the column is long: a table with a place for each beats hashing.
Distinct by_table(Span<std::int64_t> rows, std::int64_t lowest, std::size_t span) {
  std::vector<std::int32_t> place(span, 0);
  const auto offset = [&](std::size_t row) {
    return static_cast<std::size_t>(static_cast<std::uint64_t>(rows[row]) - static_cast<std::uint64_t>(lowest));
  };
  for (std::size_t row = 0; row < rows.size(); ++row) place[offset(row)] = 1;
  Distinct result;
  for (std::size_t at = 0; at < span; ++at) {
    if (place[at] == 0) continue;
    place[at] = static_cast<std::int32_t>(result.values.size());
    result.values.push_back(lowest + static_cast<std::int64_t>(at));
  }
  result.codes.resize(rows.size());
  for (std::size_t row = 0; row < rows.size(); ++row) result.codes[row] = place[offset(row)];
  return result;
}

}  // namespace

Distinct distinct(Span<std::int64_t> rows) {
  if (rows.size() > 0) {
    const auto [lowest, highest] = std::minmax_element(rows.begin(), rows.end());
    const std::uint64_t span = static_cast<std::uint64_t>(*highest) - static_cast<std::uint64_t>(*lowest);
    if (span < 4 * rows.size()) return by_table(rows, *lowest, static_cast<std::size_t>(span) + 1);
  }
  Distinct result;
  result.codes.resize(rows.size());
  std::vector<std::int64_t> found;
  Places place_of(found);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    // Runs of one value are common in sorted tables.
    const bool same = row > 0 && rows[row] == rows[row - 1];
    result.codes[row] = same ? result.codes[row - 1] : place_of(rows[row]);
  }
  std::vector<std::int32_t> order(found.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return found[static_cast<std::size_t>(a)] < found[static_cast<std::size_t>(b)];
  });
  std::vector<std::int32_t> rank(found.size());
  result.values.reserve(found.size());
  for (const std::int32_t place : order) {
    rank[static_cast<std::size_t>(place)] = static_cast<std::int32_t>(result.values.size());
    result.values.push_back(found[static_cast<std::size_t>(place)]);
  }
  for (std::int32_t& code : result.codes) code = rank[static_cast<std::size_t>(code)];
  return result;
}

Column<std::int64_t> sums(Span<std::int32_t> codes, std::int64_t groups, Span<std::int64_t> values) {
  if (codes.size() != values.size()) refuse("codes and values differ in length: ", codes.size(), " and ", values.size());
  Column<std::int64_t> result(static_cast<std::size_t>(groups), 0);
  for (std::size_t row = 0; row < codes.size(); ++row) {
    if (codes[row] < 0 || codes[row] >= groups) refuse("code ", codes[row], " is not in 0 to ", groups - 1);
    result[static_cast<std::size_t>(codes[row])] += values[row];
  }
  return result;
}

}  // namespace tetrace::distinct
