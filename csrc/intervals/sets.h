// Time as a set: union, difference, measure and intersection, group by group.
#pragma once

#include "intervals/rows.h"

namespace tetrace::intervals {

// The union of each group's rows, sorted by group and start; touching intervals are one, empty ones are none.
// Rows may come in any order; sorted ones are not sorted again.
Intervals merge(Groups group, Times start, Times end);

// The union of a's rows without that of b's.
Intervals subtract(Groups group_a, Times start_a, Times end_a, Groups group_b, Times start_b, Times end_b);

// For each window the ns of the union of its group's rows that lie inside it.
Column<std::int64_t> covered(Groups group, Times start, Times end, Groups window_group, Times window_start,
                             Times window_end);

struct Overlaps {
  Column<std::int32_t> index_a;
  Column<std::int32_t> index_b;
  Column<std::int64_t> ns;
};

// Every pair of an a and a b of one group that share time, and the ns they share. Both sorted by group and start;
// b's rows share no time with each other, a's may.
Overlaps overlaps(Groups group_a, Times start_a, Times end_a, Groups group_b, Times start_b, Times end_b);

}  // namespace tetrace::intervals
