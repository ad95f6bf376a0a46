// The way of a backward through the modules: a node of the graph runs, then the next one, maybe of another module.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "timing/recorder.h"

namespace tetrace::timing {

// The modules in whose backward a thread is, outermost first. The end of a backward is told on another thread, and it may
// go on in one.
struct Backward {
  std::mutex mutex;
  std::uint64_t session = 0;
  std::uint64_t forward_thread = 0;  // that made the last node, as autograd counts threads; 0 where that is not known
  std::int32_t at = -1;  // site of the innermost, also where that one is not measured
  Place place;
  std::vector<Begun> chain;
  std::atomic<std::int32_t> running{0};  // nodes, one inside the other, on this thread; without the lock
};

struct Node {
  std::int32_t site;
  std::uint64_t forward_thread;
  Place place;
};

// Modules that a backward began in another thread.
struct Chain {
  Place place;
  std::vector<Begun> modules;
};

// All that follows is called with the lock held.

// Whether the backward of which `node` is one begins on this thread, or comes back to it.
bool is_new_here(const Backward& backward, const Node& node);
// What is open of the backward of `node`, if none of its nodes runs now: it goes on in another thread.
Chain take_chain(Backward& backward, const Node& node);
// The node runs next on this thread, after `before` in another one.
void move_to(Backward& backward, const Node& node, Chain before);
// Ends all of the chain where its own stream is now.
void end_chain(Backward& backward);
// Ends all of it without a time.
void leave_chain(Backward& backward, Missed why);

}  // namespace tetrace::timing
