#include "timing/recorder.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "timing/interpreter.h"
#include "timing/streams.h"

namespace tetrace::timing {
namespace {

// Never destroyed: threads may still run while the process ends.
std::atomic<Recorder*> current{new Recorder};

constexpr auto poll_interval = std::chrono::microseconds(500);
// Read at once where no event is free: so many that the next calls find some, so few that the one that waits hardly does.
constexpr int most_read_for_room = 64;
constexpr std::size_t usual_streams = 64;

}  // namespace

Recorder& recorder() { return *current.load(std::memory_order_acquire); }

void abandon_recorder() { current.store(new Recorder, std::memory_order_release); }

void Recorder::open(const Driver& driver, std::size_t most_events, std::int32_t step_site) {
  close(0);
  clear();
  pool_.open(driver, most_events);
  step_site_ = step_site;
  last_step_ = -1;
  whole_step_ = {};
  session_.store(++sessions_, std::memory_order_release);
}

void Recorder::close(std::int64_t wait_ns) {
  if (session() == 0) return;
  step_ = -1;
  if (whole_step_.event != nullptr) miss(whole_step_, Missed::left);
  whole_step_ = {};
  const auto until = std::chrono::steady_clock::now() + std::chrono::nanoseconds(wait_ns);
  harvest(true);
  while (pending() > 0 && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(poll_interval);
    harvest(true);
  }
  const std::lock_guard<std::mutex> alone(harvesting_);
  session_ = 0;
  give_up();
  results_.settle(true);
  pool_.close();
}

void Recorder::clear() {
  const std::lock_guard<std::mutex> alone(harvesting_);
  give_up();  // what a thread ended while it was being closed
  results_.clear();
  const std::lock_guard<std::mutex> lock(mutex_);
  counts_ = {};  // not what waits: a thread may have ended more since
}

void Recorder::begin_step(std::int32_t number, bool sampled) {
  if (session() == 0) return;
  step_ = -1;
  end_step();
  harvest(false);
  results_.settle(false);
  last_step_ = number;
  Place place;
  if (!sampled || !current_place(place)) return;
  results_.begin_step(number);
  step_ = number;
  Missed why{};
  Event* event = record(place, why);
  if (event == nullptr) return miss(step_site_, why);
  whole_step_ = begin(step_site_, place, event);
  pool_.release(event);
}

void Recorder::end_step() {
  results_.end_step(last_step_);
  if (whole_step_.event == nullptr) return;
  const Begun begun = whole_step_;
  whole_step_ = {};
  Place place;
  if (!current_place(place) || place != begun.place) return cross(begun);
  Missed why{};
  Event* event = record(place, why);
  if (event == nullptr) return miss(begun, why);
  end(begun, event);
  pool_.release(event);
}

Event* Recorder::record(const Place& place, Missed& why) {
  Event* event = pool_.record(place, why);
  for (bool more = true; event == nullptr && why == Missed::no_room && more;) {
    more = harvest_oldest(place.device);
    event = pool_.record(place, why);  // also where nothing was read: another thread may have read it all meanwhile
  }
  return event;
}

Begun Recorder::begin(std::int32_t site, const Place& place, Event* event) {
  pool_.hold(event);
  const std::int32_t number = step();
  results_.expect(number, site);
  return {session(), site, number, place, event};
}

void Recorder::end(const Begun& begun, Event* event) {
  if (begun.session != session()) return pool_.release(begun.event);
  pool_.hold(event);
  const std::lock_guard<std::mutex> lock(mutex_);
  queue_of(begun.place).push_back({begun.site, begun.step, begun.event, event});
}

bool Recorder::let_go(const Begun& begun) {
  pool_.release(begun.event);
  return begun.session == session();
}

void Recorder::miss(const Begun& begun, Missed why) {
  if (!let_go(begun)) return;
  note(why);
  is_lack(why) ? results_.skip(begun.step, begun.site) : results_.drop(begun.step, begun.site);
}

void Recorder::cross(const Begun& begun) {
  if (!let_go(begun)) return;
  count(&Counts::crossed);
  results_.skip(begun.step, begun.site);
}

void Recorder::miss(std::int32_t site, Missed why) {
  note(why);
  if (is_lack(why)) results_.miss(step(), site);
}

void Recorder::note(Missed why) {
  if (why == Missed::captured) count(&Counts::captured);
  if (why == Missed::no_room) count(&Counts::no_room);
  if (why == Missed::failed) count(&Counts::failed);
  if (why == Missed::unclear) count(&Counts::unclear);
}

void Recorder::count(std::int64_t Counts::*what) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ++(counts_.*what);
}

Counts Recorder::counts() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return counts_;
}

std::int64_t Recorder::pending() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::int64_t sum = 0;
  for (const Queue& queue : queues_) sum += static_cast<std::int64_t>(queue.waiting.size());
  return sum;
}

std::size_t Recorder::streams() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return queues_.size();
}

// With `mutex_` held.
std::deque<Recorder::Interval>& Recorder::queue_of(const Place& place) {
  for (Queue& queue : queues_) {
    if (queue.place == place) return queue.waiting;
  }
  queues_.push_back({place, {}});
  return queues_.back().waiting;
}

void Recorder::harvest(bool one_by_one) {
  const std::lock_guard<std::mutex> alone(harvesting_);
  for (std::size_t queue = 0;; ++queue) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (queue >= queues_.size()) break;
    }
    while (harvest_next(queue, one_by_one)) {
    }
  }
  forget_streams();
}

// Of a program that makes new streams all the time. With `harvesting_` held, since queues are known by their numbers there.
void Recorder::forget_streams() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (queues_.size() <= usual_streams) return;
  const auto is_empty = [](const Queue& queue) { return queue.waiting.empty(); };
  queues_.erase(std::remove_if(queues_.begin(), queues_.end(), is_empty), queues_.end());
}

// Reads some intervals of a device, the oldest of each stream first; false when it has not come to the end of any. Then one
// question for each stream was all, so that a step whose events are all in use stays cheap.
bool Recorder::harvest_oldest(std::int32_t device) {
  const Unlocked unlocked;  // before the lock, so that it is taken back after it
  const std::lock_guard<std::mutex> alone(harvesting_);
  int read = 0;
  for (std::size_t queue = 0; session() != 0 && read < most_read_for_room; ++queue) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (queue >= queues_.size()) break;
      if (queues_[queue].place.device != device) continue;
    }
    while (read < most_read_for_room && harvest_next(queue, true)) ++read;
  }
  return read > 0;
}

// Reads the oldest intervals of a stream if they are over: all of one step, whose last event is asked and answers for
// those before it, or a single one. False when nothing was read.
bool Recorder::harvest_next(std::size_t number, bool one_by_one) {
  std::vector<Interval> oldest;
  Place place;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Queue& queue = queues_[number];
    place = queue.place;
    for (const Interval& interval : queue.waiting) {
      if (interval.step != queue.waiting.front().step || (one_by_one && !oldest.empty())) break;
      oldest.push_back(interval);
    }
  }
  if (oldest.empty()) return false;
  const Context context = pool_.context_of(place.device);
  const RelaxedCapture relaxed(pool_.driver());
  const CurrentContext entered(pool_.driver(), context);
  const int result = pool_.query(oldest.back().end);
  if (result == not_ready) return false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::deque<Interval>& waiting = queues_[number].waiting;
    waiting.erase(waiting.begin(), waiting.begin() + static_cast<std::ptrdiff_t>(oldest.size()));
  }
  read(oldest, result == success);
  return true;
}

void Recorder::read(const std::vector<Interval>& intervals, bool readable) {
  for (const Interval& one : intervals) {
    const std::int64_t ns = readable ? pool_.elapsed_ns(one.begin, one.end) : -1;
    if (ns < 0) {
      count(&Counts::failed);
      results_.skip(one.step, one.site);
    } else {
      count(&Counts::measured);
      results_.add(one.step, one.site, ns);
    }
    pool_.release(one.begin);
    pool_.release(one.end);
  }
}

void Recorder::give_up() {
  std::vector<Interval> left;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Queue& queue : queues_) left.insert(left.end(), queue.waiting.begin(), queue.waiting.end());
    queues_.clear();
    counts_.unfinished += static_cast<std::int64_t>(left.size());
  }
  for (const Interval& one : left) {
    results_.skip(one.step, one.site);
    pool_.release(one.begin);
    pool_.release(one.end);
  }
}

}  // namespace tetrace::timing
