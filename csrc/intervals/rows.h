// The rows that every function here takes: half-open intervals [start, end) in ns, each in a group.
#pragma once

#include <cstdint>

#include "common/span.h"

namespace tetrace::intervals {

using Groups = Span<std::int32_t>;
using Times = Span<std::int64_t>;
using Indices = Span<std::int32_t>;

constexpr std::int32_t none = -1;

// Intervals that a function made.
struct Intervals {
  Column<std::int32_t> group;
  Column<std::int64_t> start;
  Column<std::int64_t> end;

  void push(std::int32_t group_, std::int64_t start_, std::int64_t end_) {
    group.push_back(group_);
    start.push_back(start_);
    end.push_back(end_);
  }
};

// Rows whose columns have one length, fit 32-bit indices, and never end before they start.
struct Rows {
  Groups group;
  Times start;
  Times end;

  // Throws with the lengths, or with the first row that ends before it starts.
  Rows(Groups group, Times start, Times end);
  explicit Rows(const Intervals& made) : group(made.group), start(made.start), end(made.end) {}

  std::size_t size() const { return group.size(); }

  // Whether row `later` may follow row `earlier` when sorted by (group, start).
  bool by_start(std::size_t earlier, std::size_t later) const {
    return group[earlier] != group[later] ? group[earlier] < group[later] : start[earlier] <= start[later];
  }
};

// Throws with the first pair of neighbours that are not in (group, start) order.
void require_sorted_by_start(const Rows& rows, const char* what);

// Throws with the first row whose parent is neither an earlier row nor `none`.
void require_earlier_parents(Indices parent, std::size_t rows);

}  // namespace tetrace::intervals
