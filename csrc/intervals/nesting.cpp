#include "intervals/nesting.h"

#include <algorithm>

#include "common/error.h"

// One fact carries this file. Rows between parent[r] and r were closed when r started, and a closed row never opens
// again. So the parents of the last started row are all the rows that can be open from then on, innermost first, and
// climbing past closed ones never has to be undone: each row is climbed once, however the rows overlap.

namespace tetrace::intervals {
namespace {

Rows checked(Groups group, Times start, Times end) {
  const Rows rows(group, start, end);
  require_sorted_by_start(rows, "rows");
  for (std::size_t row = 1; row < rows.size(); ++row) {
    if (group[row] == group[row - 1] && start[row] == start[row - 1] && end[row] > end[row - 1]) {
      refuse("rows are not in order: row ", row, " starts with row ", row - 1, " at ", start[row],
             " and ends later, at ", end[row], " instead of ", end[row - 1], "; take them in order() first");
    }
  }
  return rows;
}

Rows checked(Groups group, Times start, Times end, Indices parent) {
  const Rows rows = checked(group, start, end);
  require_earlier_parents(parent, rows.size());
  return rows;
}

void require_sorted_queries(Groups group, Times time) {
  if (group.size() != time.size()) {
    refuse("columns of one table differ in length: query_group ", group.size(), ", query_time ", time.size());
  }
  for (std::size_t query = 1; query < group.size(); ++query) {
    const bool sorted = group[query - 1] != group[query] ? group[query - 1] < group[query]
                                                         : time[query - 1] <= time[query];
    if (!sorted) {
      refuse("queries are not sorted by group and time: query ", query, " (group ", group[query], ", time ",
             time[query], ") follows (group ", group[query - 1], ", time ", time[query - 1], ")");
    }
  }
}

}  // namespace

Column<std::int32_t> nest(Groups group, Times start, Times end) {
  const Rows rows = checked(group, start, end);
  Column<std::int32_t> parent(rows.size());
  std::int32_t open = none;
  for (std::size_t row = 0; row < rows.size(); ++row) {
    if (row > 0 && group[row] != group[row - 1]) open = none;
    while (open != none && end[open] <= start[row]) open = parent[open];
    parent[row] = open;
    open = static_cast<std::int32_t>(row);
  }
  return parent;
}

Column<std::int32_t> innermost(Groups group, Times start, Times end, Indices parent, Groups query_group,
                               Times query_time) {
  const Rows rows = checked(group, start, end, parent);
  require_sorted_queries(query_group, query_time);
  Column<std::int32_t> found(query_group.size());
  std::size_t next = 0;
  std::int32_t open = none;
  for (std::size_t query = 0; query < query_group.size(); ++query) {
    const std::int32_t wanted = query_group[query];
    const std::int64_t time = query_time[query];
    if (query > 0 && wanted != query_group[query - 1]) open = none;
    while (next < rows.size() && group[next] < wanted) ++next;
    while (next < rows.size() && group[next] == wanted && start[next] <= time) {
      open = static_cast<std::int32_t>(next++);
    }
    while (open != none && end[open] <= time) open = parent[open];
    found[query] = open;
  }
  return found;
}

Column<std::int32_t> inherit(Indices parent, Span<std::int32_t> own) {
  require_earlier_parents(parent, own.size());
  Column<std::int32_t> value(own.size());
  for (std::size_t row = 0; row < own.size(); ++row) {
    const std::int32_t inherited = parent[row] == none ? none : value[parent[row]];
    value[row] = own[row] >= 0 ? own[row] : inherited;
  }
  return value;
}

namespace {

// The sweep of segments(): `open` is innermost at `now`.
class Cutter {
 public:
  Cutter(const Rows& rows, Indices parent) : rows_(rows), parent_(parent) {}

  void open(std::int32_t row) {
    run_until(rows_.start[row]);
    now_ = rows_.start[row];
    open_ = row;
  }

  void close_all() {
    while (open_ != none) close_innermost();
  }

  Segments take() { return std::move(made_); }

 private:
  void run_until(std::int64_t time) {
    while (open_ != none && rows_.end[open_] <= time) close_innermost();
    if (open_ != none) cut(time);
  }

  void close_innermost() {
    cut(rows_.end[open_]);
    open_ = parent_[open_];
  }

  void cut(std::int64_t time) {
    if (time <= now_) return;
    if (!made_.row.empty() && made_.row.back() == open_) {
      made_.time.end.back() = time;
    } else {
      made_.time.push(rows_.group[open_], now_, time);
      made_.row.push_back(open_);
    }
    now_ = time;
  }

  const Rows& rows_;
  Indices parent_;
  Segments made_;
  std::int32_t open_ = none;
  std::int64_t now_ = 0;
};

}  // namespace

Segments segments(Groups group, Times start, Times end, Indices parent) {
  const Rows rows = checked(group, start, end, parent);
  Cutter cutter(rows, parent);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    if (row > 0 && group[row] != group[row - 1]) cutter.close_all();
    cutter.open(static_cast<std::int32_t>(row));
  }
  cutter.close_all();
  return cutter.take();
}

}  // namespace tetrace::intervals
