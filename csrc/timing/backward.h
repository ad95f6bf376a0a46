// The way of a backward through the modules: a node of the graph runs, then the next one, maybe of another module.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "timing/recorder.h"

namespace tetrace::timing {

// The modules in whose backward a thread is, outermost first. The end of a backward is told on another thread.
struct Backward {
  std::mutex mutex;
  std::uint64_t session = 0;
  std::int32_t at = -1;  // site of the innermost, also where that one is not measured
  Place place;
  std::vector<Begun> chain;
};

// A node of the backward of `site` runs next on this thread.
void move_to(Backward& backward, std::int32_t site);
// Ends all of the chain where its own stream is now; with the lock held.
void end_chain(Backward& backward);
// Ends all of it without a time.
void leave_chain(Backward& backward);

}  // namespace tetrace::timing
