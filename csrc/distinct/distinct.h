#pragma once

#include <cstdint>

#include "common/span.h"

namespace tetrace::distinct {

struct Distinct {
  Column<std::int64_t> values;  // ascending
  Column<std::int32_t> codes;   // row -> place in values
};

// The distinct values of a column and the place of each row's value among them.
Distinct distinct(Span<std::int64_t> rows);

// Sum of the values of each group. Throws when a code is not in [0, groups).
Column<std::int64_t> sums(Span<std::int32_t> codes, std::int64_t groups, Span<std::int64_t> values);

}  // namespace tetrace::distinct
