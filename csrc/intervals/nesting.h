// Which row is innermost: of the rows open at a time t (start <= t < end), the one that comes last in order().
// Rows of a group may overlap without nesting; everything here is defined for those too.
#pragma once

#include "intervals/rows.h"

namespace tetrace::intervals {

// For each row the innermost earlier row that is open at its start, or `none`. Rows must be in order().
Column<std::int32_t> nest(Groups group, Times start, Times end);

// For each query the innermost row, or `none`. Rows in order(), `parent` from nest(), queries sorted by group and time.
Column<std::int32_t> innermost(Groups group, Times start, Times end, Indices parent, Groups query_group,
                               Times query_time);

// For each row its own value if that is not negative, else that of its nearest ancestor which has one, else `none`.
Column<std::int32_t> inherit(Indices parent, Span<std::int32_t> own);

struct Segments {
  Intervals time;
  Column<std::int32_t> row;
};

// Each group's time cut where the innermost row changes; time without a row is left out.
Segments segments(Groups group, Times start, Times end, Indices parent);

}  // namespace tetrace::intervals
