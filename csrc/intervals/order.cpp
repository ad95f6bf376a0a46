#include "intervals/order.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace tetrace::intervals {
namespace {

// Below this many rows a comparison sort beats passes over a 2,048-entry histogram.
constexpr std::ptrdiff_t radix_worthwhile = 4096;
constexpr int digit_bits = 11;
constexpr std::size_t digit_values = std::size_t{1} << digit_bits;

struct Keyed {
  std::uint64_t key;  // ns since the first start of the group
  std::int32_t row;
};

// Stable, least significant digit first; passes over digits that no key has are not made.
void sort_by_key(std::vector<Keyed>& rows, std::uint64_t largest_key) {
  std::vector<Keyed> sorted(rows.size());
  for (int shift = 0; shift < 64 && (largest_key >> shift) != 0; shift += digit_bits) {
    std::array<std::size_t, digit_values> position{};
    for (const Keyed& row : rows) ++position[(row.key >> shift) % digit_values];
    std::exclusive_scan(position.begin(), position.end(), position.begin(), std::size_t{0});
    for (const Keyed& row : rows) sorted[position[(row.key >> shift) % digit_values]++] = row;
    rows.swap(sorted);
  }
}

using Row = std::int32_t*;

// Rows of one group whose starts are sorted: among equal starts the longer first.
void sort_equal_starts(const Rows& rows, Row first, Row last) {
  const auto longer = [&](std::int32_t a, std::int32_t b) { return rows.end[a] > rows.end[b]; };
  while (first != last) {
    const Row run = std::find_if(first, last, [&](std::int32_t row) { return rows.start[row] != rows.start[*first]; });
    if (run - first > 1 && !std::is_sorted(first, run, longer)) std::stable_sort(first, run, longer);
    first = run;
  }
}

void sort_one_group(const Rows& rows, Row first, Row last) {
  const auto before = [&](std::int32_t a, std::int32_t b) {
    return rows.start[a] != rows.start[b] ? rows.start[a] < rows.start[b] : rows.end[a] > rows.end[b];
  };
  if (std::is_sorted(first, last, before)) return;
  if (last - first < radix_worthwhile) {
    std::stable_sort(first, last, before);
    return;
  }
  std::vector<Keyed> keyed(static_cast<std::size_t>(last - first));
  const auto start_of = [&](std::int32_t row) { return static_cast<std::uint64_t>(rows.start[row]); };
  const auto earlier = [&](std::int32_t a, std::int32_t b) { return rows.start[a] < rows.start[b]; };
  const auto [lowest, highest] = std::minmax_element(first, last, earlier);
  const std::uint64_t origin = start_of(*lowest);
  const std::uint64_t largest_key = start_of(*highest) - origin;
  std::transform(first, last, keyed.begin(), [&](std::int32_t row) { return Keyed{start_of(row) - origin, row}; });
  sort_by_key(keyed, largest_key);
  std::transform(keyed.begin(), keyed.end(), first, [](const Keyed& row) { return row.row; });
  sort_equal_starts(rows, first, last);
}

// Row numbers with equal groups together, groups ascending, each in the order of the rows.
Column<std::int32_t> rows_by_group(Groups group) {
  Column<std::int32_t> rows(group.size());
  if (std::is_sorted(group.begin(), group.end())) {
    std::iota(rows.begin(), rows.end(), 0);
    return rows;
  }
  const auto [lowest, highest] = std::minmax_element(group.begin(), group.end());
  const std::int64_t first = *lowest;
  const auto values = static_cast<std::size_t>(*highest - first) + 1;
  if (values > 2 * group.size() + digit_values) {
    std::iota(rows.begin(), rows.end(), 0);
    std::stable_sort(rows.begin(), rows.end(), [&](std::int32_t a, std::int32_t b) { return group[a] < group[b]; });
    return rows;
  }
  std::vector<std::int32_t> position(values);
  for (const std::int32_t value : group) ++position[static_cast<std::size_t>(value - first)];
  std::exclusive_scan(position.begin(), position.end(), position.begin(), 0);
  for (std::size_t row = 0; row < group.size(); ++row) {
    rows[position[static_cast<std::size_t>(group[row] - first)]++] = static_cast<std::int32_t>(row);
  }
  return rows;
}

}  // namespace

Column<std::int32_t> order(Groups group, Times start, Times end) {
  const Rows rows(group, start, end);
  Column<std::int32_t> ordered = rows_by_group(group);
  const Row last = ordered.data() + ordered.size();
  for (Row first = ordered.data(); first != last;) {
    const Row next = std::upper_bound(first, last, *first,
                                      [&](std::int32_t a, std::int32_t b) { return group[a] < group[b]; });
    sort_one_group(rows, first, next);
    first = next;
  }
  return ordered;
}

}  // namespace tetrace::intervals
