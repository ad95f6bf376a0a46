// What the ranges of modules tell: which interval begins or ends on the calling thread's stream.
//
// A forward, a recompute and the optimizer nest: each has an event at its begin and one at its end. In backward a node of
// the graph runs, then the next one: of each that is in another module than the one before, one event ends the modules
// that were left and begins those that were entered, up to the outermost.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "ranges/sites.h"
#include "timing/driver.h"

namespace tetrace::timing {

extern std::atomic<bool> is_open;      // between `open` and `close`
extern std::atomic<bool> is_sampling;  // within a step that is measured

// After a range was opened, `depth` ranges inside others, and before it is closed.
void range_opened(std::int32_t site, ranges::Kind kind, std::size_t depth);
// The range of a node of autograd's, which the thread that autograd calls `forward_thread` made; of no module where `site`
// is -1: then it is not closed.
void node_opened(std::int32_t site, std::uint64_t forward_thread, std::size_t depth);
void range_closed(std::size_t depth);

// Closes, and forgets what was measured and what is to be.
void reset();

void open(const Driver& driver, std::size_t most_events, std::int32_t step_site);
void close(std::int64_t wait_ns);
void begin_step(std::int32_t number, bool sampled);
// The calling thread calls autograd's engine. When the call has returned, what is still open of its modules ends; of
// another call, which still runs in another thread, nothing does.
void begin_backward();
void end_backward();

}  // namespace tetrace::timing
