// How the extension refuses its input: std::invalid_argument reaches Python as ValueError.
#pragma once

#include <sstream>
#include <stdexcept>

namespace tetrace {

// Throws a one-line error made of `parts`. Callers test first, so that the message costs nothing when all is well.
template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

}  // namespace tetrace
