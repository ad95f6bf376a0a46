// Reading the file of a thread's ranges (ring.h), also one that was cut off anywhere.
#pragma once

#include <cstdint>
#include <string>

#include "common/span.h"

namespace tetrace::ranges {

struct Recorded {
  std::int64_t process = -1;
  std::int64_t thread = -1;
  std::string name;
  std::int64_t dropped = 0;
  bool closed = false;
  Column<std::int64_t> start;  // ns of CLOCK_REALTIME, ascending
  Column<std::int64_t> end;    // 0: never closed
  Column<std::int64_t> value;
  Column<std::int32_t> site;
  Column<std::int32_t> step;
  Column<std::int32_t> depth;
};

// Throws when the file cannot be read or is no ring. A file cut within its header has no rows.
Recorded read_ring(const std::string& path);

}  // namespace tetrace::ranges
