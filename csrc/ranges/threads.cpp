#include "ranges/threads.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

#include "common/error.h"
#include "ranges/nvtx.h"
#include "ranges/stack.h"

namespace tetrace::ranges {

std::atomic<std::uint64_t> session{0};
std::atomic<std::int32_t> step{-1};

namespace {

// Guards itself, every Thread's ring against being closed by two, and the list of threads. A thread's other fields are
// its own. Never destroyed: threads may still run while the process ends.
struct Registry {
  std::mutex mutex;
  std::uint64_t sessions = 0;
  std::string folder;
  std::size_t limit_bytes = 0;
  double ticks_per_second = 0;
  std::vector<Thread*> threads;
  pthread_key_t at_thread_exit{};
};

Registry& registry() {
  static Registry& only = *new Registry;
  return only;
}

thread_local Thread* current = nullptr;

void thread_ends(void* state) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  auto* thread = static_cast<Thread*>(state);
  if (thread->ring && thread->session == session) thread->ring->close(true);
  all.threads.erase(std::remove(all.threads.begin(), all.threads.end(), thread), all.threads.end());
  delete thread;
  current = nullptr;
}

void before_fork() { registry().mutex.lock(); }

void after_fork_in_parent() { registry().mutex.unlock(); }

// The rings are the parent's: unmapped, neither cut nor written. Only the forking thread is there.
void after_fork_in_child() {
  Registry& all = registry();
  session = 0;
  step = -1;
  for (Thread* thread : all.threads) {
    if (thread != current) delete thread;
  }
  all.threads.clear();
  if (current != nullptr) {
    *current = Thread{};
    all.threads.push_back(current);
  }
  abandon_transitions();
  abandon_spans();
  all.mutex.unlock();
}

void close_rings(bool tell_nvtx) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const std::uint64_t ending = session.exchange(0);
  if (ending == 0) return;
  for (Thread* thread : all.threads) {
    if (thread->ring && thread->session == ending) thread->ring->close(thread == current);
  }
  if (current == nullptr || current->session != ending) return;
  for (const Open& open : current->open) {
    if (tell_nvtx && open.in_nvtx) nvtx::pop();
  }
  *current = Thread{};
}

// Tools are told nothing any more: they may have ended before.
void process_ends() { close_rings(false); }

void prepare_once() {
  static const bool prepared = [] {
    pthread_key_create(&registry().at_thread_exit, thread_ends);
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    std::atexit(process_ends);
    return true;
  }();
  (void)prepared;
}

Thread* enter_session() {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const std::uint64_t now = session;
  if (now == 0) return nullptr;
  if (current == nullptr) {
    current = new Thread;
    all.threads.push_back(current);
    pthread_setspecific(all.at_thread_exit, current);
  }
  *current = Thread{};
  current->session = now;
  if (!all.folder.empty()) current->ring = Ring::create(all.folder, all.limit_bytes, all.ticks_per_second);
  current->open.reserve(64);
  return current;
}

}  // namespace

Thread* this_thread() {
  const std::uint64_t now = session.load(std::memory_order_acquire);
  if (now == 0) return nullptr;
  Thread* thread = current;
  return thread != nullptr && thread->session == now ? thread : enter_session();
}

void switch_on(const std::string& folder, std::size_t bytes_per_thread) {
  constexpr std::size_t least = 2 * header_bytes;
  struct stat found {};
  if (bytes_per_thread < least) refuse("bytes_per_thread is ", bytes_per_thread, "; give at least ", least);
  if (!folder.empty()) {
    const bool is_folder = stat(folder.c_str(), &found) == 0 && S_ISDIR(found.st_mode);
    if (!is_folder) refuse("'", folder, "' is not a folder; make it first");
    if (access(folder.c_str(), W_OK | X_OK) != 0) refuse("'", folder, "' cannot be written to; choose another folder");
  }
  prepare_once();
  switch_off();
  forget_transitions(false);
  nvtx::find_tool();
  const double rate = ticks_per_second();
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.folder = folder;
  all.limit_bytes = bytes_per_thread;
  all.ticks_per_second = rate;
  session = ++all.sessions;
}

void switch_off() { close_rings(true); }

}  // namespace tetrace::ranges
