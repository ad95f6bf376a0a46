#include "collector/writer.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>

#include "collector/batch.h"
#include "collector/canary.h"
#include "collector/handover.h"
#include "collector/window.h"

namespace tetrace::collector {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds period{1};
// After the window was closed, what was launched in it still ends.
constexpr int last_questions = 10;

// Never destroyed: the thread runs until the process is gone.
struct Writer {
  // A leaf, as the locks of buffers, texts and handover are: none of them is taken while it is held.
  std::mutex mutex;
  std::condition_variable wake, done;
  bool runs = false;
  std::string failure;  // why it runs no more
  bool woken = false;
  std::uint64_t asked = 0;    // times that somebody waits for
  std::uint64_t answered = 0;

  ActivityBuffers buffers;
  std::atomic<const CuptiApi*> api{nullptr};
  std::atomic<const CallNames*> calls{nullptr};
  std::atomic<void (*)()> also{nullptr};
  std::atomic<int> questions{0};
  std::atomic<bool> holds{false};
  std::atomic<std::uint64_t> turns{0};  // times that CUPTI was taken
  std::atomic<void (*)(std::int64_t)> lost{nullptr};
  std::atomic<std::uint64_t> dropped{0};
  // Of the thread; others read its counters.
  std::atomic<Batch*> batch{nullptr};
};

Writer& writer() {
  static Writer& only = *new Writer;
  return only;
}

constexpr int without_end = 1 << 30;

// To CUPTI, since it was taken last.
struct Listening {
  std::uint64_t turn = 0;
  Canary canary;
  Silence silence;
};

// What is asked for next should show that CUPTI still calls here.
void listen(Writer& all, Listening& here, const CuptiApi& api, const Batch& batch) {
  if (all.questions.load() != without_end) return here.silence.pause();
  const std::uint64_t turn = all.turns.load();
  if (turn != here.turn) here = {turn, Canary(api), Silence()};
  const auto tell = all.lost.load();
  if (!here.canary.can_sing() || tell == nullptr) return;
  const Silence::Next next = here.silence.next(all.buffers.calls(), batch.answers(), now_ns());
  if (next == Silence::Next::lost) return tell(here.silence.good_until_ns());
  if (next == Silence::Next::sing) here.canary.sing();
}

// Besides the period that CUPTI is told, in which its own worker hands over full buffers only: what lies in those that
// are not full yet would be lost in a process that is killed. CUPTI calls back for each buffer, on this thread: no lock is
// held here.
void ask_cupti(Writer& all, const CuptiApi& api) {
  const int left = all.questions.load();
  if (left > 0) {
    api.cuptiActivityFlushAll(0);
    int expected = left;
    if (left < without_end) all.questions.compare_exchange_strong(expected, left - 1);
  }
}

void count_dropped(Writer& all, const CuptiApi& api) {
  std::size_t dropped = 0;
  if (api.cuptiActivityGetNumDroppedRecords(nullptr, 0, &dropped) != cupti::success || dropped == 0) return;
  all.dropped += dropped;
  hand_over(Happened::dropped_by_cupti, {}, dropped);
}

void write_all(Writer& all, Batch& batch) {
  const CuptiApi* api = all.api.load();
  batch.use(api, all.calls.load());
  for (auto full = all.buffers.full(); !full.empty(); full = all.buffers.full()) {
    for (const FullBuffer& buffer : full) {
      batch.add(buffer.memory, buffer.used);
      all.buffers.give_back(buffer.memory);
    }
  }
  batch.add(take_handed());
  if (api != nullptr) all.buffers.prepare();
}

void work(Writer& all) {
  auto* batch = new Batch;
  all.batch = batch;
  Listening listening;
  Clock::time_point next = Clock::now() + period;
  for (;;) {
    std::uint64_t asked = 0;
    {
      std::unique_lock<std::mutex> lock(all.mutex);
      all.wake.wait_until(lock, next, [&] { return all.woken; });
      all.woken = false;
      asked = all.asked;
    }
    // First, since threads drop what they have no room for.
    if (const auto also = all.also.load()) also();
    const CuptiApi* api = all.api.load();
    if (Clock::now() >= next) {
      if (api != nullptr) {
        listen(all, listening, *api, *batch);
        ask_cupti(all, *api);
      }
      next = Clock::now() + period;
    }
    // Another tool's count is not ours to reset: none is asked for while it has CUPTI.
    if (api != nullptr && all.holds.load()) count_dropped(all, *api);
    write_all(all, *batch);
    const std::lock_guard<std::mutex> lock(all.mutex);
    all.answered = asked;
    all.done.notify_all();
  }
}

// Nobody may wait for it any more. CUPTI gets no more buffers than there are, and drops the rest.
void give_up(Writer& all, const std::string& why) {
  say("the collector's writer stops: " + why + "; the script goes on, the GPU is not recorded");
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.runs = false;
  all.failure = "its writer stopped: " + why;
  all.done.notify_all();
}

void* run(void*) {
  pthread_setname_np(pthread_self(), "tetrace-writer");
  try {
    work(writer());
  } catch (const std::exception& error) {
    give_up(writer(), error.what());
  }
  return nullptr;
}

}  // namespace

ActivityBuffers& activity_buffers() { return writer().buffers; }

void decode_with(const CuptiApi& api, const CallNames& calls) {
  writer().calls = &calls;
  writer().api = &api;
}

void do_while_writing(void (*work)()) { writer().also = work; }

void keep_asking(bool on) { writer().questions = on ? without_end : last_questions; }

void end_writer() { writer().api = nullptr; }

void stop_asking() { writer().questions = 0; }

void hold_cupti(bool on) {
  if (on) ++writer().turns;
  writer().holds = on;
}

void when_cupti_is_lost(void (*tell)(std::int64_t)) { writer().lost = tell; }

// All signals are blocked in the thread: handlers of the script's must not run there, and a file beyond the limit of its
// size is an error and no SIGXFSZ.
bool start_writer() {
  Writer& all = writer();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (all.runs || !all.failure.empty()) return all.runs;
  sigset_t every, before;
  sigfillset(&every);
  pthread_sigmask(SIG_SETMASK, &every, &before);
  pthread_t thread;
  all.runs = pthread_create(&thread, nullptr, run, nullptr) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (all.runs) pthread_detach(thread);
  return all.runs;
}

bool wake_writer() {
  Writer& all = writer();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.woken = true;
  all.wake.notify_one();
  return all.runs;
}

std::string writer_failure() {
  Writer& all = writer();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return all.failure;
}

bool wait_for_writer(std::int64_t most_ms) {
  Writer& all = writer();
  std::unique_lock<std::mutex> lock(all.mutex);
  if (!all.runs) return false;
  const std::uint64_t mine = ++all.asked;
  all.woken = true;
  all.wake.notify_one();
  all.done.wait_for(lock, std::chrono::milliseconds(most_ms), [&] { return all.answered >= mine || !all.runs; });
  return all.answered >= mine;
}

Written written() {
  const Batch* batch = writer().batch;
  const std::uint64_t dropped = writer().dropped;
  return batch == nullptr ? Written{0, 0, dropped} : Written{batch->written_bytes(), batch->lost(), dropped};
}

}  // namespace tetrace::collector
