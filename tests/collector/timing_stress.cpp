// Ranges of modules timed by many threads at once on a stand-in for the driver: what sanitizers are to look at. What comes of
// single calls, tests/instrument/test_timing.py says.
//
// timing_stress LIBCUDA
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "ranges/autograd.h"
#include "ranges/sites.h"
#include "ranges/stack.h"
#include "ranges/threads.h"
#include "timing/driver.h"
#include "timing/marks.h"
#include "timing/measured.h"
#include "timing/recorder.h"
#include "timing/streams.h"

namespace {

using namespace tetrace;

constexpr int threads = 16;
constexpr int devices = 4;
constexpr std::uintptr_t streams_of_device = 256;  // of the stand-in; of each, stream 0 is the default one
constexpr int calls = 60;

struct StandIn {
  void (*reset)();
  void (*use)(std::int32_t device, std::uintptr_t stream);
  void (*work)(std::int64_t ns);
  void (*hold)(std::uintptr_t stream, int held);
  void (*capture)(std::uintptr_t stream, int status);
  void (*fail)(const char* name, int code, int times);
  std::int64_t (*count)(const char* what);
  timing::Source current;
};
StandIn cuda;

template <class Function>
void find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (function == nullptr) std::abort();
}

void find_stand_in(const char* path) {
  void* library = dlopen(path, RTLD_NOW);
  if (library == nullptr) std::puts(dlerror()), std::abort();
  find(library, "fake_reset", cuda.reset);
  find(library, "fake_use", cuda.use);
  find(library, "fake_work", cuda.work);
  find(library, "fake_hold", cuda.hold);
  find(library, "fake_capture", cuda.capture);
  find(library, "fake_fail", cuda.fail);
  find(library, "fake_count", cuda.count);
  std::int32_t (*current)(std::int32_t*, void**);
  find(library, "fake_current", current);
  cuda.current = current;
}

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::exit(1);
}

struct Sites {
  std::int32_t step = ranges::add_site("step", 0, ranges::Kind::other);
  std::int32_t model = module("model", -1), layer = module("layer", model), embedding = module("embedding", model, 0);

  static std::int32_t module(const char* name, std::int32_t around, std::int32_t device = -1) {
    const std::int32_t forward = ranges::add_site(name, 0, ranges::Kind::forward);
    const std::int32_t backward = ranges::add_site(name, 0, ranges::Kind::backward);
    ranges::find_site(forward)->backward_site = backward;
    timing::measure(forward, around, true, device);
    timing::measure(backward, around, true, device);
    return forward;
  }
};

// As autograd counts a thread and the nodes that it makes.
std::atomic<std::uint64_t> autograd_threads{0};
thread_local const std::uint64_t own_number = ++autograd_threads;
thread_local std::uint64_t next_node = 0;
std::uint64_t number_of_thread() { return own_number; }
std::uint64_t number_of_node() { return next_node; }

// A thread of autograd's, which runs nodes of whoever calls.
class Engine {
 public:
  Engine() : thread_([this] { run(); }) {}
  ~Engine() {
    call(nullptr);
    thread_.join();
  }
  void call(const std::function<void()>& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return !has_work_; });
    work_ = work;
    has_work_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this, number = ++asked_] { return done_ >= number; });
  }

 private:
  void run() {
    for (bool more = true; more;) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return has_work_; });
      const std::function<void()> work = std::exchange(work_, nullptr);
      has_work_ = false;
      lock.unlock();
      more = work != nullptr;
      if (more) work();
      lock.lock();
      ++done_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;
  bool has_work_ = false;
  std::uint64_t asked_ = 0, done_ = 0;
  std::thread thread_;
};

struct Lane {
  std::int32_t device;
  std::uintptr_t stream, captured;  // two of its own
};

Lane lane_of(int thread) {
  const std::int32_t device = thread % devices;
  const std::uintptr_t first = streams_of_device * device + 2 * thread + 1;
  return {device, first, first + 1};
}

void use(const Lane& lane) { cuda.use(lane.device, lane.stream); }

// One call of the model, whose layer makes two nodes; returns the numbers of these.
std::vector<std::uint64_t> forward(const Sites& sites) {
  std::vector<std::uint64_t> nodes;
  ranges::push(sites.model);
  ranges::push(sites.embedding);
  ranges::pop();
  ranges::push(sites.layer);
  cuda.work(10);
  nodes = {next_node, next_node + 1};
  next_node += 2;
  ranges::pop();
  nodes.push_back(next_node++);
  ranges::pop();
  return nodes;
}

void backward(const Lane& lane, const std::vector<std::uint64_t>& nodes, Engine& engine) {
  const std::uint64_t made_by = own_number;
  timing::begin_backward();
  engine.call([&] {
    use(lane);
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
      if (ranges::enter_backward(made_by, static_cast<std::int64_t>(*node)) == 0) continue;
      cuda.work(20);
      ranges::leave_backward();
    }
  });
  timing::end_backward();
}

// What is launched to a stream that is captured, also where the capture begins or ends within the range.
void capture(const Lane& lane, const Sites& sites) {
  cuda.use(lane.device, lane.captured);
  ranges::push(sites.model);
  cuda.capture(lane.captured, 1);
  ranges::push(sites.layer);
  ranges::pop();
  ranges::pop();
  cuda.capture(lane.captured, 0);
  use(lane);
}

void cross(const Lane& lane, const Sites& sites) {
  ranges::push(sites.model);
  cuda.use(lane.device, lane.captured);
  ranges::pop();
  use(lane);
}

// Does `meanwhile` again and again while all threads do `work`.
template <class Work, class Meanwhile>
void with_threads(Work work, Meanwhile meanwhile) {
  std::vector<std::thread> all;
  std::atomic<int> running{threads};
  for (int thread = 0; thread < threads; ++thread) {
    all.emplace_back([&, thread] {
      use(lane_of(thread));
      work(thread);
      --running;
    });
  }
  while (running > 0) meanwhile();
  for (std::thread& thread : all) thread.join();
}

void open(const char* library, const Sites& sites, std::size_t events) {
  timing::open(timing::load_driver(library), events, sites.step);
}

// Whatever was begun has ended, and nothing is left in the driver.
void end() {
  timing::reset();
  expect(cuda.count("violations") == 0, "the driver was used as it may be");
  expect(cuda.count("alive") == 0, "every event was destroyed");
  expect(cuda.count("retained") == 0, "every context was let go");
  cuda.reset();
}

std::map<std::int32_t, timing::Row> rows() {
  std::map<std::int32_t, timing::Row> found;
  for (const timing::Row& row : timing::recorder().results().take_rows()) found[row.site] = row;
  return found;
}

// Far more calls than events, in one step: threads read each other's to find a free one, and no call is missed.
void count_calls(const char* library, const Sites& sites) {
  Engine engines[2];
  open(library, sites, 200);
  timing::begin_step(1, true);
  with_threads(
      [&](int thread) {
        for (int call = 0; call < calls; ++call) {
          const std::vector<std::uint64_t> nodes = forward(sites);
          backward(lane_of(thread), nodes, engines[thread % 2]);
        }
        capture(lane_of(thread), sites);
        cross(lane_of(thread), sites);
        ranges::push(sites.model);  // the thread ends in it
      },
      [] { usleep(1000); });
  timing::begin_step(2, false);
  timing::close(0);
  const timing::Counts counts = timing::recorder().counts();
  std::map<std::int32_t, timing::Row> found = rows();
  expect(found[sites.model].count == threads * calls, "each call of the model is measured");
  expect(found[sites.model].skipped == threads, "those that crossed are skipped");
  expect(found[sites.model].elapsed_ns == threads * calls * 10, "with the time of its own stream");
  expect(found[sites.layer].count == threads * calls, "each call of the layer is measured");
  expect(found[sites.embedding].count == threads * calls, "each call on the default stream is measured");
  expect(found[ranges::find_site(sites.layer)->backward_site].count > 0, "backwards are measured");
  expect(counts.captured == 2 * threads, "captured calls are counted");
  expect(counts.crossed >= threads, "calls that crossed are counted");
  expect(counts.no_room + counts.failed + counts.unfinished == 0, "there was room for all");
  end();
}

// A device that comes to nothing for a while, with events for a part of the calls.
void run_out(const char* library, const Sites& sites) {
  open(library, sites, 8);
  timing::begin_step(1, true);
  with_threads(
      [&](int thread) {
        const Lane lane = lane_of(thread);
        cuda.hold(lane.stream, 1);
        for (int call = 0; call < calls; ++call) forward(sites);
        cuda.hold(lane.stream, 0);
        for (int call = 0; call < calls; ++call) forward(sites);
      },
      [] { usleep(1000); });
  timing::begin_step(2, false);
  timing::close(0);
  const timing::Counts counts = timing::recorder().counts();
  std::map<std::int32_t, timing::Row> found = rows();
  expect(counts.no_room > 0, "calls that found no event are counted");
  expect(found[sites.layer].count + found[sites.layer].skipped == 2 * threads * calls, "each call is told of");
  expect(cuda.count("most_alive") <= devices * 8, "no more events were made than were allowed");
  end();
}

// Steps begin, and measuring ends and begins anew, while all threads are in their ranges; the driver fails now and then.
void stop_and_start(const char* library, const Sites& sites) {
  Engine engines[2];
  open(library, sites, 40);
  std::int32_t step = 0;
  with_threads(
      [&](int thread) {
        const Lane lane = lane_of(thread);
        for (int call = 0; call < calls; ++call) {
          backward(lane, forward(sites), engines[call % 2]);
          capture(lane, sites);
          cross(lane, sites);
          std::thread([&] {
            use(lane);
            ranges::push(sites.model);
            backward(lane, forward(sites), engines[call % 2]);
            ranges::push(sites.layer);
          }).join();
        }
      },
      [&] {
        ++step;
        timing::begin_step(step, step % 4 != 0);
        usleep(300);
        timing::recorder().counts();
        timing::recorder().results().summaries();
        rows();
        if (step % 16 == 0) cuda.fail(step % 32 == 0 ? "cuEventRecord" : "cuEventCreate", 999, 3);
        if (step % 2 != 0) return;
        timing::close(step % 3 == 0 ? 1'000'000 : 0);
        open(library, sites, 40);
      });
  end();
}

// A program that makes new streams all the time: what is known of those that have nothing left is forgotten.
void use_many_streams(const char* library, const Sites& sites) {
  constexpr std::uintptr_t of_step = 20;
  open(library, sites, 200);
  std::int32_t step = 0;
  for (std::uintptr_t stream = 0; stream + of_step <= devices * streams_of_device; stream += of_step) {
    timing::begin_step(++step, true);
    for (std::uintptr_t one = stream; one < stream + of_step; ++one) {
      cuda.use(static_cast<std::int32_t>(one / streams_of_device), one);
      forward(sites);
    }
    expect(timing::recorder().streams() < 150, "streams are forgotten when they have nothing left");
  }
  timing::begin_step(++step, false);
  timing::close(0);
  std::int64_t measured = 0;
  for (const timing::Row& row : timing::recorder().results().take_rows()) {
    if (row.site == sites.model) measured += row.count;
  }
  expect(measured == (step - 1) * static_cast<std::int64_t>(of_step), "each call is measured");
  end();
}

}  // namespace

int main(int, char** arguments) {
  const char* library = arguments[1];
  find_stand_in(library);
  cuda.reset();
  timing::set_sources(cuda.current, nullptr);
  ranges::set_sequence(number_of_node, number_of_thread);
  ranges::switch_on("", 1 << 16);
  const Sites sites;
  count_calls(library, sites);
  // What `reset` forgot is to be measured again.
  run_out(library, Sites());
  stop_and_start(library, Sites());
  use_many_streams(library, Sites());
  ranges::switch_off();
}
