// Intervals on streams: an event begins each and another ends it, and both are read once the device has come so far.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "timing/pool.h"
#include "timing/results.h"

namespace tetrace::timing {

// Calls, by what became of them.
struct Counts {
  std::int64_t measured = 0;
  std::int64_t crossed = 0;     // begun on one stream, ended on another
  std::int64_t captured = 0;    // into a CUDA graph, which runs later
  std::int64_t no_room = 0;     // the pool's limit was reached
  std::int64_t failed = 0;      // the driver refused
  std::int64_t unclear = 0;     // another backward ended, and whose they were was not known
  std::int64_t unfinished = 0;  // the device had not come to their end when measuring ended
};

// An interval that has begun, in the session in which it did.
struct Begun {
  std::uint64_t session = 0;
  std::int32_t site = -1;
  std::int32_t step = -1;
  Place place;
  Event* event = nullptr;
};

// One for the process. Its lock is held for a few memory accesses, never during a call of the driver.
class Recorder {
 public:
  void open(const Driver& driver, std::size_t most_events, std::int32_t step_site);
  // Waits at most `wait_ns` for the device, so that what was launched last counts too.
  void close(std::int64_t wait_ns);
  // Forgets what was measured; while it is closed.
  void clear();

  // A number for each time that it was opened; 0 while it is closed.
  std::uint64_t session() const { return session_.load(std::memory_order_acquire); }
  // The step that is measured now; -1 while none is.
  std::int32_t step() const { return step_.load(std::memory_order_relaxed); }
  // Reads what the device has come to, without waiting. To be called by one thread at a time.
  void begin_step(std::int32_t number, bool sampled);

  // The present on `place`; null where it cannot be recorded. Where all events are in use, those that the device is through
  // with are read first, without waiting.
  Event* record(const Place& place, Missed& why);
  void release(Event* event) { pool_.release(event); }
  // An interval from `event` on, which stays the caller's as well.
  Begun begin(std::int32_t site, const Place& place, Event* event);
  void end(const Begun& begun, Event* event);
  // Its end cannot be recorded.
  void miss(const Begun& begun, Missed why);
  void cross(const Begun& begun);
  // Its begin could not be recorded.
  void miss(std::int32_t site, Missed why);

  Counts counts() const;
  std::int64_t pending() const;
  std::size_t streams() const;  // of which something is kept
  Pool& pool() { return pool_; }
  Results& results() { return results_; }

 private:
  struct Interval {
    std::int32_t site;
    std::int32_t step;
    Event* begin;
    Event* end;
  };
  struct Queue {  // of one stream, on which events come in the order in which they were recorded
    Place place;
    std::deque<Interval> waiting;
  };

  void end_step();
  void note(Missed why);
  void count(std::int64_t Counts::*what);
  bool let_go(const Begun& begun);
  std::deque<Interval>& queue_of(const Place& place);
  void harvest(bool one_by_one);
  void forget_streams();
  bool harvest_next(std::size_t queue, bool one_by_one);
  bool harvest_oldest(std::int32_t device);
  void read(const std::vector<Interval>& intervals, bool readable);
  void give_up();

  std::atomic<std::uint64_t> session_{0};
  std::atomic<std::int32_t> step_{-1};
  std::uint64_t sessions_ = 0;
  std::int32_t last_step_ = -1;
  std::int32_t step_site_ = -1;
  Begun whole_step_;
  Pool pool_;
  Results results_;
  std::mutex harvesting_;  // taken before the one below; what waits is taken out, and the pool closed, under it alone
  mutable std::mutex mutex_;  // guards what follows
  std::deque<Queue> queues_;
  Counts counts_;
};

// Replaced in a forked child, where a lock may be held by a thread that is not there.
Recorder& recorder();
void abandon_recorder();

}  // namespace tetrace::timing
