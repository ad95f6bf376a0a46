#include "collector/nvtx_stack.h"

#include <pthread.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "collector/nvtx.h"
#include "collector/window.h"
#include "collector/writer.h"
#include "ranges/ring.h"

namespace tetrace::collector::nvtx {
namespace {

using ranges::Place;
using ranges::Ring;
using ranges::Row;
using ranges::ticks;

constexpr std::size_t ring_bytes = std::size_t{2} << 30;
// Deeper ones are only counted, and of those that are started no more are kept: some programs never close theirs.
constexpr std::size_t deepest = 4096;
constexpr std::size_t most_started = std::size_t{1} << 16;

struct Open {
  std::uint64_t session;  // that it is recorded in; 0: in none
  Place place;
  Row row;
};

struct Stack {
  std::vector<Open> open;
  int uncounted = 0;  // above those
};

struct Thread {
  std::int64_t number = ranges::thread_number();
  std::uint64_t session = 0;
  std::shared_ptr<Ring> ring;       // null when its file could not be made; the writer holds it while it makes it grow
  std::atomic<bool> closed{false};  // the ring is
  std::int32_t depth = 0;           // of all domains
  std::vector<Stack> stacks;        // by domain
  TextCache texts;
};

// A start/end range that is recorded.
struct Started {
  std::uint64_t session;
  std::string path;  // of its ring
  Place place;
  Row row;
};

// `mutex` guards all of it, and every ring against being closed by two. What belongs to one thread is its own. No
// function of another file is called while it is held, but for the ring's. No file grows meanwhile. Never destroyed:
// threads may still run while the process ends.
struct Registry {
  std::mutex mutex;
  std::vector<Thread*> threads;
  std::unordered_map<nvtxRangeId_t, Started> started;
  std::unordered_map<std::int64_t, std::string> names;  // of threads, where somebody gave one
  pthread_key_t at_thread_exit{};
};

Registry& registry();

thread_local Thread* current = nullptr;

// The mutex must be held.
void close_ring(Thread& thread, bool by_owner) {
  if (thread.ring && !thread.closed) thread.ring->close(by_owner);
  thread.closed = true;
}

void thread_ends(void* state) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  auto* thread = static_cast<Thread*>(state);
  close_ring(*thread, true);
  all.threads.erase(std::remove(all.threads.begin(), all.threads.end(), thread), all.threads.end());
  delete thread;
  current = nullptr;
}

Registry& registry() {
  static Registry& only = [&]() -> Registry& {
    auto* made = new Registry;
    pthread_key_create(&made->at_thread_exit, thread_ends);
    return *made;
  }();
  return only;
}

Thread& this_thread() {
  if (current != nullptr) return *current;
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  current = new Thread;
  all.threads.push_back(current);
  pthread_setspecific(all.at_thread_exit, current);
  return *current;
}

void enter(Thread& thread, std::uint64_t session) {
  static const double rate = ranges::ticks_per_second();
  const std::string folder = process_folder();
  std::shared_ptr<Ring> ring = folder.empty() ? nullptr : Ring::create(folder, ring_bytes, rate, "nvtx", wake_writer);
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  close_ring(thread, true);
  thread.ring = std::move(ring);
  thread.session = session;
  thread.closed = false;
  const auto name = all.names.find(thread.number);
  if (thread.ring && name != all.names.end()) thread.ring->rename(name->second);
  if (window.load() != session) close_ring(thread, true);  // closed meanwhile, without this ring
}

// The session that ranges of this thread are recorded in now; 0: in none.
std::uint64_t session_of(Thread& thread) {
  const std::uint64_t now = window.load(std::memory_order_acquire);
  if (now != 0 && thread.session != now) enter(thread, now);
  return now != 0 && thread.ring && !thread.closed ? now : 0;
}

Stack& stack_of(Thread& thread, const Domain& domain) {
  const auto number = static_cast<std::size_t>(domain.number);
  if (thread.stacks.size() <= number) thread.stacks.resize(number + 1);
  return thread.stacks[number];
}

int depth(const Stack& stack) { return static_cast<int>(stack.open.size()) + stack.uncounted; }

Row row_of(const Text& text, std::int32_t depth) {
  return {ticks(), 0, text.sequence, static_cast<std::int32_t>(text.id), -1, depth, 0};
}

// Numbers go on in a forked child, so that it never ends a range of its parent's by accident.
std::atomic<nvtxRangeId_t> last_started{0};

bool take(nvtxRangeId_t range, Started& started) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.started.find(range);
  if (found == all.started.end()) return false;
  started = std::move(found->second);
  all.started.erase(found);
  return true;
}

}  // namespace

int push(const Domain& domain, const nvtxEventAttributes_t* event) {
  if (domain.is_ours) return 0;
  Thread& thread = this_thread();
  Stack& stack = stack_of(thread, domain);
  const int before = depth(stack);
  if (stack.open.size() == deepest) {
    ++stack.uncounted;
    return before;
  }
  Open open{session_of(thread), {}, {}};
  if (open.session != 0) {
    open.row = row_of(find_text(thread.texts, domain, event), thread.depth);
    open.place = thread.ring->append(open.row);
  }
  stack.open.push_back(open);
  ++thread.depth;
  return before;
}

int pop(const Domain& domain) {
  if (domain.is_ours) return 0;
  Thread& thread = this_thread();
  Stack& stack = stack_of(thread, domain);
  if (stack.uncounted > 0) {
    --stack.uncounted;
    return depth(stack);
  }
  if (stack.open.empty()) return -1;
  Open& open = stack.open.back();
  // A ring that was closed meanwhile takes no more rows.
  if (open.session != 0 && open.session == session_of(thread)) {
    open.row.end = ticks();
    thread.ring->end_row(open.place, open.row);
  }
  stack.open.pop_back();
  --thread.depth;
  return depth(stack);
}

nvtxRangeId_t start(const Domain& domain, const nvtxEventAttributes_t* event) {
  const nvtxRangeId_t range = ++last_started;
  if (domain.is_ours || !is_recording()) return range;
  Thread& thread = this_thread();
  Started started{session_of(thread), "", {}, {}};
  if (started.session == 0) return range;
  started.row = row_of(find_text(thread.texts, domain, event), -1);
  started.path = thread.ring->path();
  started.place = thread.ring->append(started.row);
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (all.started.size() < most_started) all.started.emplace(range, std::move(started));
  return range;
}

void end(nvtxRangeId_t range) {
  Started started;
  if (!is_recording() || !take(range, started)) return;
  Thread& thread = this_thread();
  if (session_of(thread) != started.session) return;
  started.row.end = ticks();
  if (started.path == thread.ring->path()) {
    thread.ring->end_row(started.place, started.row);
  } else if (!ranges::end_row_in_file(started.path, started.place, started.row.end)) {
    thread.ring->append(started.row);
  }
}

void name_thread(std::uint32_t number, std::string_view name) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.names[number] = name;
  for (Thread* thread : all.threads) {
    if (thread->number == number && thread->ring && !thread->closed) thread->ring->rename(name);
  }
}

}  // namespace tetrace::collector::nvtx

namespace tetrace::collector {

using namespace nvtx;

void close_nvtx() {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (Thread* thread : all.threads) close_ring(*thread, thread == current);
  all.started.clear();
}

void extend_nvtx() {
  Registry& all = registry();
  std::vector<std::shared_ptr<Ring>> rings;
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (const Thread* thread : all.threads) {
      if (thread->ring && !thread->closed) rings.push_back(thread->ring);
    }
  }
  for (const std::shared_ptr<Ring>& ring : rings) ring->extend_ahead();
}

void lock_nvtx() {
  registry().mutex.lock();
  lock_texts();
}

void unlock_nvtx() {
  unlock_texts();
  registry().mutex.unlock();
}

void abandon_nvtx() {
  Registry& all = registry();
  for (Thread* thread : all.threads) {
    if (thread != current) delete thread;
  }
  all.threads.clear();
  all.started.clear();
  if (current != nullptr) {
    current->ring.reset();
    current->session = 0;
    all.threads.push_back(current);
  }
  unlock_nvtx();
}

}  // namespace tetrace::collector
