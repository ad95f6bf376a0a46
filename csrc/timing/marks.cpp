#include "timing/marks.h"

#include <pthread.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "timing/backward.h"
#include "timing/measured.h"
#include "timing/recorder.h"
#include "timing/streams.h"

namespace tetrace::timing {

std::atomic<bool> is_open{false};
std::atomic<bool> is_sampling{false};

namespace {

// An interval of a nesting range, which is closed at this depth of the thread's ranges.
struct Nested {
  std::size_t depth;
  Begun begun;
};

struct Thread {
  std::vector<Nested> nested;
  Backward backward;
};

struct Threads {
  std::mutex mutex;
  std::vector<std::shared_ptr<Thread>> all;
};

// The lock of the threads is a leaf: who holds one's backward may wait for the interpreter, and who waits for this lock
// may hold that. Of a backward's lock only its own thread waits while it holds the interpreter. Never destroyed, and made
// anew in a forked child.
std::atomic<Threads*> current_threads{new Threads};

Threads& threads() { return *current_threads.load(std::memory_order_acquire); }

void leave(const std::shared_ptr<Thread>& thread);

struct Owner {
  std::shared_ptr<Thread> thread;
  ~Owner() {
    if (thread != nullptr) leave(thread);
  }
};

thread_local Owner own;

Thread& this_thread() {
  if (own.thread == nullptr) {
    own.thread = std::make_shared<Thread>();
    Threads& known = threads();
    const std::lock_guard<std::mutex> lock(known.mutex);
    known.all.push_back(own.thread);
  }
  return *own.thread;
}

void nest(Thread& thread, std::int32_t site, std::size_t depth) {
  Recorder& now = recorder();
  Place place;
  if (now.session() == 0 || !is_measured(site) || !current_place(place)) return;
  // What a range of this depth or deeper left behind was never closed.
  while (!thread.nested.empty() && thread.nested.back().depth >= depth) {
    now.miss(thread.nested.back().begun, Missed::left);
    thread.nested.pop_back();
  }
  Missed why{};
  Event* event = now.record(place, why);
  if (event == nullptr) return now.miss(site, why);
  thread.nested.push_back({depth, now.begin(site, place, event)});
  now.release(event);
}

void unnest(const Begun& begun) {
  Recorder& now = recorder();
  if (begun.session != now.session()) return now.release(begun.event);
  Place place;
  if (!current_place(place) || place != begun.place) return now.cross(begun);
  Missed why{};
  Event* event = now.record(place, why);
  if (event == nullptr) return now.miss(begun, why);
  now.end(begun, event);
  now.release(event);
}

// The thread ends; another one may be ending its backward.
void leave(const std::shared_ptr<Thread>& thread) {
  Threads& known = threads();
  {
    const std::lock_guard<std::mutex> lock(known.mutex);
    known.all.erase(std::remove(known.all.begin(), known.all.end(), thread), known.all.end());
  }
  for (const Nested& left : thread->nested) recorder().miss(left.begun, Missed::left);
  const std::lock_guard<std::mutex> alone(thread->backward.mutex);
  leave_chain(thread->backward);
}

void forget_nested() {
  Thread& thread = this_thread();
  for (const Nested& left : thread.nested) recorder().miss(left.begun, Missed::left);
  thread.nested.clear();
}

// Events are the parent's, and a lock may be held by a thread that is not there.
void after_fork_in_child() {
  is_open = false;
  is_sampling = false;
  own.thread.reset();  // the list still has it, and is left as it is
  current_threads.store(new Threads, std::memory_order_release);
  abandon_measured();
  abandon_recorder();
}

void prepare_once() {
  static const bool prepared = pthread_atfork(nullptr, nullptr, after_fork_in_child) == 0;
  (void)prepared;
}

}  // namespace

void range_opened(std::int32_t site, ranges::Kind kind, std::size_t depth) {
  Thread& thread = this_thread();
  kind == ranges::Kind::backward ? move_to(thread.backward, site) : nest(thread, site, depth);
}

void range_closed(std::size_t depth) {
  Thread& thread = this_thread();
  while (!thread.nested.empty() && thread.nested.back().depth >= depth) {
    const Begun begun = thread.nested.back().begun;
    const bool is_this = thread.nested.back().depth == depth;
    thread.nested.pop_back();
    is_this ? unnest(begun) : recorder().miss(begun, Missed::left);
  }
}

void reset() {
  close(0);
  recorder().clear();
  forget_measured();
}

void open(const Driver& driver, std::size_t most_events, std::int32_t step_site) {
  prepare_once();
  recorder().open(driver, most_events, step_site);
  is_open = true;
}

void close(std::int64_t wait_ns) {
  is_sampling = false;
  end_backward();
  // Other threads let go of theirs when they next close a range, or end.
  forget_nested();
  recorder().close(wait_ns);
  is_open = false;
}

void begin_step(std::int32_t number, bool sampled) {
  is_sampling = false;
  recorder().begin_step(number, sampled);
  is_sampling = recorder().step() >= 0;
}

void end_backward() {
  if (!is_open.load(std::memory_order_acquire)) return;
  std::vector<std::shared_ptr<Thread>> all;
  {
    Threads& known = threads();
    const std::lock_guard<std::mutex> lock(known.mutex);
    all = known.all;
  }
  for (const std::shared_ptr<Thread>& thread : all) {
    const std::lock_guard<std::mutex> alone(thread->backward.mutex);
    end_chain(thread->backward);
  }
}

}  // namespace tetrace::timing
