#include "timing/marks.h"

#include <pthread.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <mutex>
#include <vector>

#include "ranges/autograd.h"
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
  std::int32_t device;  // that was asked for, or -1
  Begun begun;
};

struct Thread {
  std::vector<Nested> nested;
  std::vector<std::size_t> nodes;  // depths of the ranges of nodes that run
  Backward backward;
};

// Of autograd's engine, from the thread that autograd calls `number`; 0 where that is not known.
struct Call {
  const Thread* thread;
  std::uint64_t number;
};

struct Threads {
  std::mutex mutex;
  std::vector<std::shared_ptr<Thread>> all;
  std::vector<Call> calls;
};

// Under the lock of the threads nobody waits: who holds one's backward may wait for the interpreter, and who waits for this
// lock may hold that. Of a backward's lock only its own thread waits while it holds the interpreter; nobody waits for a
// second one. Never destroyed, and made anew in a forked child.
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
  std::int32_t device = -1;
  if (now.session() == 0 || !is_measured(site, device)) return;
  // What a range of this depth or deeper left behind was never closed.
  while (!thread.nested.empty() && thread.nested.back().depth >= depth) {
    now.miss(thread.nested.back().begun, Missed::left);
    thread.nested.pop_back();
  }
  // A module without parameters runs where those around it have theirs.
  if (device < 0 && !thread.nested.empty()) device = thread.nested.back().device;
  Place place;
  if (!current_place(place, device)) return;
  Missed why{};
  Event* event = now.record(place, why);
  if (event == nullptr) return now.miss(site, why);
  thread.nested.push_back({depth, device, now.begin(site, place, event)});
  now.release(event);
}

void unnest(const Nested& range) {
  Recorder& now = recorder();
  const Begun& begun = range.begun;
  if (begun.session != now.session()) return now.release(begun.event);
  Place place;
  if (!current_place(place, range.device) || place != begun.place) return now.cross(begun);
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
    const auto is_its = [&](const Call& call) { return call.thread == thread.get(); };
    known.calls.erase(std::remove_if(known.calls.begin(), known.calls.end(), is_its), known.calls.end());
  }
  for (const Nested& left : thread->nested) recorder().miss(left.begun, Missed::left);
  const std::lock_guard<std::mutex> alone(thread->backward.mutex);
  leave_chain(thread->backward, Missed::left);
}

// What another thread did last for the backward of `node`: autograd runs nodes of the processor on the thread that called
// it, and those of each device on one of its own.
Chain chain_elsewhere(const Thread& here, const Node& node) {
  Threads& known = threads();
  const std::lock_guard<std::mutex> lock(known.mutex);
  for (const std::shared_ptr<Thread>& thread : known.all) {
    if (thread.get() == &here) continue;
    const std::unique_lock<std::mutex> alone(thread->backward.mutex, std::try_to_lock);
    if (!alone.owns_lock()) continue;  // a node of it begins now, or it is ended
    Chain found = take_chain(thread->backward, node);
    if (!found.modules.empty()) return found;
  }
  return {};
}

void move(Thread& thread, std::int32_t site, std::uint64_t forward_thread) {
  Node node{site, forward_thread, {}};
  if (recorder().session() == 0 || !current_place(node.place)) return;
  Backward& backward = thread.backward;
  const std::lock_guard<std::mutex> lock(backward.mutex);
  move_to(backward, node, is_new_here(backward, node) ? chain_elsewhere(thread, node) : Chain{});
}

void leave_nodes(Thread& thread, std::size_t depth) {
  while (!thread.nodes.empty() && thread.nodes.back() >= depth) thread.nodes.pop_back();
  thread.backward.running.store(static_cast<std::int32_t>(thread.nodes.size()), std::memory_order_release);
}

// The calling thread, as autograd counts threads; 0 while nodes are not observed.
std::uint64_t number_of_thread() {
  const ranges::Peek number = ranges::autograd_thread.load();
  return ranges::peek_sequence.load() == nullptr || number == nullptr ? 0 : number();
}

// Takes the innermost call of this thread from those that run.
Call end_call() {
  const Thread* thread = &this_thread();
  Threads& known = threads();
  const std::lock_guard<std::mutex> lock(known.mutex);
  for (auto call = known.calls.rbegin(); call != known.calls.rend(); ++call) {
    if (call->thread != thread) continue;
    const Call ended = *call;
    known.calls.erase(std::next(call).base());
    return ended;
  }
  return {thread, 0};
}

enum class Whose { ended, running, unclear };

// To which call the chain of a thread belongs, now that `ended` has returned; with the lock of its backward held. A thread
// that called the engine runs nodes of its own call only; other nodes are known by the thread that made them.
Whose whose(const Thread& thread, const Call& ended) {
  Threads& known = threads();
  const std::lock_guard<std::mutex> lock(known.mutex);
  if (known.calls.empty() || &thread == ended.thread) return Whose::ended;
  const std::uint64_t made_by = thread.backward.forward_thread;
  bool runs = false;
  for (const Call& call : known.calls) {
    if (call.thread == &thread) return Whose::running;
    runs = runs || (made_by != 0 && call.number == made_by);
  }
  if (made_by != 0 && ended.number == made_by) return Whose::ended;
  return runs ? Whose::running : Whose::unclear;
}

std::vector<std::shared_ptr<Thread>> all_threads() {
  Threads& known = threads();
  const std::lock_guard<std::mutex> lock(known.mutex);
  return known.all;
}

void end_all_chains() {
  for (const std::shared_ptr<Thread>& thread : all_threads()) {
    const std::lock_guard<std::mutex> alone(thread->backward.mutex);
    end_chain(thread->backward);
  }
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
  kind == ranges::Kind::backward ? move(thread, site, 0) : nest(thread, site, depth);
}

void node_opened(std::int32_t site, std::uint64_t forward_thread, std::size_t depth) {
  Thread& thread = this_thread();
  leave_nodes(thread, depth);  // those that were never closed
  if (site >= 0) {
    thread.nodes.push_back(depth);
    thread.backward.running.fetch_add(1, std::memory_order_release);
  }
  move(thread, site, forward_thread);
}

void range_closed(std::size_t depth) {
  Thread& thread = this_thread();
  if (!thread.nodes.empty()) leave_nodes(thread, depth);
  while (!thread.nested.empty() && thread.nested.back().depth >= depth) {
    const Nested range = thread.nested.back();
    thread.nested.pop_back();
    range.depth == depth ? unnest(range) : recorder().miss(range.begun, Missed::left);
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
  if (is_open) end_all_chains();
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

void begin_backward() {
  const Call call{&this_thread(), number_of_thread()};
  Threads& known = threads();
  const std::lock_guard<std::mutex> lock(known.mutex);
  known.calls.push_back(call);
}

void end_backward() {
  const Call ended = end_call();
  if (!is_open.load(std::memory_order_acquire)) return;
  for (const std::shared_ptr<Thread>& thread : all_threads()) {
    const std::lock_guard<std::mutex> alone(thread->backward.mutex);
    const Whose found = whose(*thread, ended);
    if (found == Whose::ended) end_chain(thread->backward);
    if (found == Whose::unclear) leave_chain(thread->backward, Missed::unclear);
  }
}

}  // namespace tetrace::timing
