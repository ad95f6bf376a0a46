#pragma once

#include "intervals/rows.h"

namespace tetrace::intervals {

// The stable permutation that sorts rows by group, then start, then the longer first.
Column<std::int32_t> order(Groups group, Times start, Times end);

}  // namespace tetrace::intervals
