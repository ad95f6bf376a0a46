#include "intervals/sets.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "intervals/order.h"

namespace tetrace::intervals {
namespace {

bool is_sorted_by_start(const Rows& rows) {
  for (std::size_t row = 1; row < rows.size(); ++row) {
    if (!rows.by_start(row - 1, row)) return false;
  }
  return true;
}

void add(Intervals& made, std::int32_t group, std::int64_t start, std::int64_t end) {
  if (start == end) return;
  if (!made.group.empty() && made.group.back() == group && start <= made.end.back()) {
    made.end.back() = std::max(made.end.back(), end);
  } else {
    made.push(group, start, end);
  }
}

// How much of the merged time lies before a point of a group, earlier groups included: of use are differences of two
// points of one group. `near` is where the last point was found: a bisection looks there first, as points mostly ascend.
class Measure {
 public:
  explicit Measure(const Intervals& merged) : merged_(merged), before_(merged.group.size() + 1) {
    for (std::size_t row = 0; row < merged.group.size(); ++row) {
      before_[row + 1] = before_[row] + merged.end[row] - merged.start[row];
    }
  }

  std::int64_t until(std::int32_t group, std::int64_t time, std::size_t& near) const {
    near = started_before(group, time, near);
    if (near == 0 || merged_.group[near - 1] != group) return before_[near];
    return before_[near] - std::max<std::int64_t>(0, merged_.end[near - 1] - time);
  }

 private:
  bool starts_before(std::size_t row, std::int32_t group, std::int64_t time) const {
    return merged_.group[row] != group ? merged_.group[row] < group : merged_.start[row] < time;
  }

  std::size_t started_before(std::int32_t group, std::int64_t time, std::size_t low) const {
    constexpr std::size_t nearby = 8;
    std::size_t high = merged_.group.size();
    if (low > 0 && !starts_before(low - 1, group, time)) {
      high = low - 1;
      low = 0;
    } else if (low + nearby < high && !starts_before(low + nearby, group, time)) {
      high = low + nearby;
    }
    while (low < high) {
      const std::size_t middle = low + (high - low) / 2;
      if (starts_before(middle, group, time)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  const Intervals& merged_;
  std::vector<std::int64_t> before_;
};

void require_disjoint(const Rows& rows, const char* what) {
  for (std::size_t row = 1; row < rows.size(); ++row) {
    if (rows.group[row] == rows.group[row - 1] && rows.start[row] < rows.end[row - 1]) {
      refuse(what, " overlap: row ", row, " (group ", rows.group[row], ", start ", rows.start[row],
             ") starts before row ", row - 1, " ends at ", rows.end[row - 1]);
    }
  }
}

}  // namespace

Intervals merge(Groups group, Times start, Times end) {
  const Rows rows(group, start, end);
  Intervals made;
  if (is_sorted_by_start(rows)) {
    for (std::size_t row = 0; row < rows.size(); ++row) add(made, group[row], start[row], end[row]);
  } else {
    for (const std::int32_t row : order(group, start, end)) add(made, group[row], start[row], end[row]);
  }
  return made;
}

Intervals subtract(Groups group_a, Times start_a, Times end_a, Groups group_b, Times start_b, Times end_b) {
  const Intervals kept = merge(group_a, start_a, end_a);
  const Intervals removed = merge(group_b, start_b, end_b);
  Intervals made;
  std::size_t first = 0;
  for (std::size_t row = 0; row < kept.group.size(); ++row) {
    const std::int32_t group = kept.group[row];
    std::int64_t now = kept.start[row];
    const auto is_over = [&](std::size_t hole) {
      return removed.group[hole] != group ? removed.group[hole] < group : removed.end[hole] <= now;
    };
    while (first < removed.group.size() && is_over(first)) ++first;
    for (std::size_t hole = first; hole < removed.group.size() && removed.group[hole] == group &&
                                   removed.start[hole] < kept.end[row];
         ++hole) {
      if (now < removed.start[hole]) made.push(group, now, removed.start[hole]);
      now = removed.end[hole];
      first = hole;
    }
    if (now < kept.end[row]) made.push(group, now, kept.end[row]);
  }
  return made;
}

Column<std::int64_t> covered(Groups group, Times start, Times end, Groups window_group, Times window_start,
                             Times window_end) {
  const Rows windows(window_group, window_start, window_end);
  const Intervals merged = merge(group, start, end);
  const Measure measure(merged);
  Column<std::int64_t> ns(windows.size());
  std::size_t near_start = 0;
  std::size_t near_end = 0;
  for (const std::int32_t row : order(window_group, window_start, window_end)) {
    const std::int64_t before = measure.until(window_group[row], window_start[row], near_start);
    ns[row] = measure.until(window_group[row], window_end[row], near_end) - before;
  }
  return ns;
}

Overlaps overlaps(Groups group_a, Times start_a, Times end_a, Groups group_b, Times start_b, Times end_b) {
  const Rows a(group_a, start_a, end_a);
  const Rows b(group_b, start_b, end_b);
  require_sorted_by_start(a, "rows of a");
  require_sorted_by_start(b, "rows of b");
  require_disjoint(b, "rows of b");
  Overlaps made;
  std::size_t first = 0;
  for (std::size_t row = 0; row < a.size(); ++row) {
    const auto is_over = [&](std::size_t other) {
      return b.group[other] != a.group[row] ? b.group[other] < a.group[row] : b.end[other] <= a.start[row];
    };
    while (first < b.size() && is_over(first)) ++first;
    for (std::size_t other = first;
         other < b.size() && b.group[other] == a.group[row] && b.start[other] < a.end[row]; ++other) {
      const std::int64_t ns = std::min(a.end[row], b.end[other]) - std::max(a.start[row], b.start[other]);
      if (ns <= 0) continue;
      made.index_a.push_back(static_cast<std::int32_t>(row));
      made.index_b.push_back(static_cast<std::int32_t>(other));
      made.ns.push_back(ns);
    }
  }
  return made;
}

}  // namespace tetrace::intervals
