#include "collector/collector.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>

#include "collector/activities.h"
#include "collector/callbacks.h"
#include "collector/handover.h"
#include "collector/nvtx.h"
#include "collector/options.h"
#include "collector/surroundings.h"
#include "collector/texts.h"
#include "collector/window.h"
#include "collector/writer.h"
#include "ranges/clock.h"

namespace tetrace::collector {
namespace {

using namespace std::chrono_literals;
constexpr std::uint32_t flush_period_ms = 1000;
constexpr std::int64_t most_wait_ms = 10'000;

enum class State { off, armed, recording, yielded, failed };
constexpr const char* state_names[] = {"off", "armed", "recording", "yielded", "failed"};

// Lock order: `control`, then CUPTI's own locks, then the leaves (buffers, texts, handover, writer). CUPTI's callbacks
// come with CUPTI's locks held and take leaves only, so whoever holds `control` may call CUPTI. The writer calls CUPTI
// without `control`: a script that stops recording must not wait for a disk.
// Never destroyed: threads may run while the process ends.
struct Collector {
  std::mutex control;
  State state = State::off;
  bool wanted = options().from_start;
  bool attached = false;  // attach has been tried
  bool holds_cupti = false;
  bool was_given = false;  // another tool has had CUPTI in this process
  std::string holder;      // who has it now
  std::uint64_t windows = 0;
  std::int64_t opened_ns = 0;  // since when CUPTI records in the newest window
  std::string reason;
  CuptiApi api;
  std::unique_ptr<CallNames> calls;
  std::unique_ptr<Activities> activities;
  Subscriber subscriber = nullptr;
};

Collector& collector() {
  static Collector& only = *new Collector;
  return only;
}

using Lock = std::lock_guard<std::mutex>;

// A process that ends must not wait for ever for a thread that CUPTI keeps.
std::unique_lock<std::mutex> lock_soon(std::mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
  for (int attempt = 0; attempt < 2000 && !lock.owns_lock(); ++attempt) {
    std::this_thread::sleep_for(1ms);
    if (lock.try_lock()) break;
  }
  return lock;
}

void fail(Collector& all, const std::string& reason) {
  all.state = State::failed;
  all.reason = without_home(reason);
  hand_over(Happened::failed, reason);
  say("the GPU is not recorded: " + reason);
}

void open_window(Collector& all) {
  if (window == 0) window = ++all.windows;
  if (!all.holds_cupti) return;
  const std::string refused = all.activities->enable(all.subscriber);
  if (!refused.empty()) {
    all.activities->disable(all.subscriber);  // what it took of them costs the script, and nobody is to have it
    return fail(all, refused);
  }
  all.state = State::recording;
  keep_asking(true);
  hand_over(Happened::recording_on);
  all.opened_ns = now_ns();
}

void close_window(Collector& all) {
  window = 0;
  close_nvtx();
  if (all.state != State::recording) return;
  all.activities->disable(all.subscriber);
  all.state = State::armed;
  keep_asking(false);
  hand_over(Happened::recording_off);
}

// Settings first, since CUPTI takes some only before anything is enabled.
bool take_buffers(Collector& all, std::string& reason) {
  if (all.api.cuptiSetThreadIdType != nullptr) all.api.cuptiSetThreadIdType(cupti::system_thread_ids);
  const cupti::Result result = register_buffers(all.api);
  if (result != cupti::success) return reason = "CUPTI takes no buffers: " + all.api.words(result), false;
  // Full buffers come from CUPTI's own worker then, also after the window; the writer asks for those that are not full.
  if (all.api.cuptiActivityFlushPeriod != nullptr) all.api.cuptiActivityFlushPeriod(flush_period_ms);
  return true;
}

// There CUPTI's own clock is CLOCK_MONOTONIC_RAW (cupti_activity.h of CUDA 13.0).
bool is_wsl() { return access("/dev/dxg", F_OK) == 0; }

std::uint64_t wall_clock() { return static_cast<std::uint64_t>(ranges::read_clock(CLOCK_REALTIME)); }

// CUPTI's own clock is the wall clock; the PyTorch profiler leaves it another, and sets that anew for each profile.
bool take_clock(Collector& all, std::string& reason) {
  if (all.api.cuptiActivityRegisterTimestampCallback == nullptr) return true;
  const cupti::Result result = all.api.cuptiActivityRegisterTimestampCallback(wall_clock);
  return result == cupti::success || (reason = "CUPTI keeps another tool's clock: " + all.api.words(result), false);
}

// Whoever had CUPTI before may keep its subscription for good, as the PyTorch profiler does; records need none.
bool take_cupti(Collector& all, std::string& reason) {
  all.subscriber = subscribe(all.api, reason);
  // Else nothing of CUPTI is touched that another tool holds: its buffers would come here.
  if (all.subscriber == nullptr && !all.was_given) return false;
  if ((all.was_given || is_wsl()) && !take_clock(all, reason)) return false;
  return take_buffers(all, reason);
}

void say_taken_back(const Collector& all) {
  constexpr const char* kept = "the other tool keeps its subscription to CUPTI: nodes of graphs made from here on are missing";
  hand_over(Happened::resumed, all.subscriber == nullptr ? kept : "");
}

void give(Collector& all, const std::string& who) {
  all.state = State::yielded;
  all.reason = who;
  hand_over(Happened::yielded, who);
}

// On the writer's thread, which must wait for nobody that may wait for it; it tells again. CUPTI is another tool's from here
// on, and what is switched on in it is left as it is.
void lose(std::int64_t since_ns) {
  Collector& all = collector();
  const std::string seen = other_tools();  // asks the loader, whose lock nobody should wait for that has ours
  std::unique_lock<std::mutex> lock(all.control, std::try_to_lock);
  if (!lock.owns_lock() || all.state != State::recording) return;
  const std::string reason = "CUPTI hands its records to another tool (cuptiActivityRegisterCallbacks), " +
                             (seen.empty() ? "as cupti-python and Triton's Proton have it do" : "perhaps " + seen) +
                             "; run the script without that tool";
  all.state = State::failed;
  all.reason = without_home(reason);
  all.holds_cupti = false;
  hold_cupti(false);
  stop_asking();
  activity_buffers().write_off();
  // A window that was shut for less than a period: the writer knows of the one before.
  hand_over(Happened::failed, reason, 0, std::max(since_ns, all.opened_ns));
  lock.unlock();  // who starts or stops meanwhile need not wait for whoever reads what is said
  say("the GPU is not recorded any more: " + reason);
}

// CUPTI is asked once: it ends its own parts after this.
void end_process() {
  static std::atomic<bool> ended{false};
  if (!is_wanted() || ended.exchange(true)) return;
  stop_asking();
  flush();
  end_buffers();
  end_writer();
  window = 0;
  collector().holds_cupti = false;
}

void before_fork() { lock_nvtx(); }

void after_fork_in_parent() { unlock_nvtx(); }

// Only the forking thread is there, and locks may be held by others: from here on the child touches nothing.
void after_fork_in_child() {
  is_forked_child = true;
  window = 0;
  abandon_nvtx();
}

void prepare_once() {
  static const bool prepared = [] {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    std::atexit(end_process);
    return true;
  }();
  static_cast<void>(prepared);
}

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') json += '\\';
    json += static_cast<unsigned char>(letter) < ' ' ? ' ' : letter;
  }
  return json + '"';
}

}  // namespace

void activate() {
  prepare_once();
  do_while_writing(extend_nvtx);
  when_cupti_is_lost(lose);
  if (!start_writer()) say("no thread can be started to write the recording; raise `ulimit -u`");
}

void start_as_wanted() {
  if (is_wanted() && options().from_start) start();
}

void attach() {
  if (!is_wanted()) return;
  Collector& all = collector();
  const Lock lock(all.control);
  if (all.attached) return;
  all.attached = true;
  activate();
  std::string reason;
  all.api = load_cupti(options().cupti, reason);
  if (all.api.version == 0) return fail(all, reason);
  all.calls = std::make_unique<CallNames>(all.api, options().all_calls);
  all.activities = std::make_unique<Activities>(all.api, *all.calls, options().all_calls);
  decode_with(all.api, *all.calls);
  if (!all.holder.empty()) return give(all, all.holder);  // a profile that began before CUDA did
  if (!take_cupti(all, reason)) return fail(all, reason);
  all.holds_cupti = true;
  hold_cupti(true);
  // Once more, behind what CUPTI itself registered: last in, first out, and its end must come after ours.
  std::atexit(end_process);
  all.state = State::armed;
  all.activities->prepare();
  if (all.subscriber == nullptr) say_taken_back(all);
  keep_asking(false);
  if (all.wanted) open_window(all);
}

void start() {
  if (!is_wanted()) return;
  Collector& all = collector();
  const Lock lock(all.control);
  prepare_once();
  all.wanted = true;
  if (all.state != State::recording) open_window(all);
}

void stop() {
  if (!is_wanted()) return;
  Collector& all = collector();
  const Lock lock(all.control);
  all.wanted = false;
  close_window(all);
}

// Nobody who starts or stops meanwhile waits for the disk.
void flush() {
  if (!is_wanted()) return;
  Collector& all = collector();
  {
    const std::unique_lock<std::mutex> lock = lock_soon(all.control);
    if (lock.owns_lock() && all.holds_cupti) all.api.cuptiActivityFlushAll(cupti::flush_forced);
    if (lock.owns_lock() && all.attached) hand_over(Happened::flushed_at_end);
  }
  close_nvtx();
  wait_for_writer(most_wait_ms);
}

void yield(const std::string& who) {
  if (!is_wanted()) return;
  Collector& all = collector();
  const Lock lock(all.control);
  all.was_given = true;
  all.holder = who;
  if (!all.holds_cupti) return;
  if (all.state == State::recording) all.activities->disable(all.subscriber);
  all.api.cuptiActivityFlushAll(cupti::flush_forced);
  if (all.subscriber != nullptr) all.api.cuptiUnsubscribe(all.subscriber);
  all.subscriber = nullptr;
  all.holds_cupti = false;
  hold_cupti(false);
  activity_buffers().write_off();
  stop_asking();
  give(all, who);
}

void resume() {
  if (!is_wanted()) return;
  Collector& all = collector();
  const Lock lock(all.control);
  all.holder.clear();
  if (all.state != State::yielded) return;
  std::string reason;
  if (!take_cupti(all, reason)) return fail(all, reason);
  all.activities->retake();
  all.holds_cupti = true;
  hold_cupti(true);
  all.state = State::armed;
  all.reason.clear();
  say_taken_back(all);
  if (all.wanted) open_window(all);
}

std::string state() {
  if (!is_wanted()) return R"({"state": "off"})";
  Collector& all = collector();
  const Lock lock(all.control);
  const Written now = written();
  const std::string failure = without_home(writer_failure());
  const State shown = failure.empty() ? all.state : State::failed;
  return "{\"state\": " + quoted(state_names[static_cast<int>(shown)]) +
         ", \"reason\": " + quoted(failure.empty() ? all.reason : failure) +
         ", \"cupti\": " + std::to_string(all.api.version) + ", \"library\": " + quoted(all.api.library) +
         ", \"dropped\": " + std::to_string(now.dropped) + ", \"lost\": " + std::to_string(now.lost) +
         ", \"written_bytes\": " + std::to_string(now.bytes) + "}";
}

}  // namespace tetrace::collector
