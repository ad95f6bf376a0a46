// The state of each thread, and switching ranges on and off for all of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ranges/autograd.h"
#include "ranges/ring.h"

namespace tetrace::ranges {

// A range that is open on a thread.
struct Open {
  Row row;
  Place place;
  std::int32_t module;   // innermost site around and including it that is a forward or a backward, or -1
  std::int32_t forward;  // innermost site around and including it that is a forward, or -1
  bool in_nvtx;
  bool from_node;  // opened by enter_backward
};

struct Thread {
  std::uint64_t session = 0;
  std::unique_ptr<Ring> ring;  // null when no rows are kept, or its file could not be made: NVTX is still told
  std::vector<Open> open;
  std::shared_ptr<Transitions> transitions;
  // The forward thread that enter_backward was last asked about, and the backward site it last opened.
  std::uint64_t asked_thread = 0;
  std::shared_ptr<Transitions> asked;
  std::int32_t last_backward = -1;
};

// A number for each time that ranges were switched on; 0 while they are off.
extern std::atomic<std::uint64_t> session;
extern std::atomic<std::int32_t> step;

inline bool is_on() { return session.load(std::memory_order_relaxed) != 0; }

// The calling thread's state for the session that is on; null while ranges are off.
Thread* this_thread();

// An empty `folder` keeps no rows. Throws when it is no folder that files can be made in, or a thread may keep less than
// a page of rows.
void switch_on(const std::string& folder, std::size_t bytes_per_thread);
void switch_off();

}  // namespace tetrace::ranges
