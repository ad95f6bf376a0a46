#include "intervals/rows.h"

#include <limits>

#include "common/error.h"

namespace tetrace::intervals {

Rows::Rows(Groups group, Times start, Times end) : group(group), start(start), end(end) {
  if (start.size() != group.size() || end.size() != group.size()) {
    refuse("columns of one table differ in length: group ", group.size(), ", start ", start.size(), ", end ",
           end.size());
  }
  if (size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    refuse("too many rows for 32-bit indices: ", size());
  }
  for (std::size_t row = 0; row < size(); ++row) {
    if (end[row] < start[row]) {
      refuse("row ", row, " ends before it starts: start ", start[row], ", end ", end[row]);
    }
  }
}

void require_sorted_by_start(const Rows& rows, const char* what) {
  for (std::size_t row = 1; row < rows.size(); ++row) {
    if (!rows.by_start(row - 1, row)) {
      refuse(what, " are not sorted by group and start: row ", row, " (group ", rows.group[row], ", start ",
             rows.start[row], ") follows (group ", rows.group[row - 1], ", start ", rows.start[row - 1],
             "); take them in order() first");
    }
  }
}

void require_earlier_parents(Indices parent, std::size_t rows) {
  if (parent.size() != rows) {
    refuse("columns of one table differ in length: parent ", parent.size(), ", rows ", rows);
  }
  for (std::size_t row = 0; row < rows; ++row) {
    if (parent[row] < none || parent[row] >= static_cast<std::int64_t>(row)) {
      refuse("parent of row ", row, " is ", parent[row], "; expected -1 or an earlier row");
    }
  }
}

}  // namespace tetrace::intervals
