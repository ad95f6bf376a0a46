// The whole collector over the stand-in, and rings, from many threads at once: what a thread sanitizer is to look at.
//
// collector_stress FOLDER LIBCUDA, with TETRACE_RECORDING=FOLDER.
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "nvtx_calls.h"
#include "ranges/ring.h"

extern "C" {
int InitializeInjection();
void tetrace_collector_start();
void tetrace_collector_stop();
void tetrace_collector_flush();
void tetrace_collector_yield(const char*);
void tetrace_collector_resume();
const char* tetrace_collector_state();
void stand_in_launch(std::uint32_t);
void stand_in_copy(std::uint32_t);
void stand_in_capture(std::uint32_t);
void stand_in_wait(std::uint32_t);
void stand_in_driver_call(std::uint32_t);
}

namespace {

constexpr int threads = 16;
constexpr int rounds = 40;

void write_ring(const std::string& folder) {
  using namespace tetrace::ranges;
  const auto ring = Ring::create(folder, std::size_t{1} << 16, 1e9);
  if (!ring) return;
  for (int row = 0; row < 5000; ++row) {
    Row range{ticks(), 0, -1, row, 0, 0, 0};
    const Place place = ring->append(range);
    range.end = ticks();
    ring->end_row(place, range);
  }
  ring->close(true);
}

// Registered and plain texts, some of them new each time; ranges of other threads are ended too.
void open_ranges(int thread, int round) {
  static std::atomic<nvtxRangeId_t> crossing{0};
  const nvtxDomainHandle_t domain = nvtx_calls::domain("NCCL");
  for (int range = 0; range < 50; ++range) {
    nvtx_calls::push(("layer " + std::to_string(range)).c_str());
    nvtx_calls::push(domain, nvtx_calls::string(domain, "ncclAllReduce"));
    nvtx_calls::end(crossing.exchange(nvtx_calls::start("crossing")));
    nvtx_calls::push(("thread " + std::to_string(thread) + " round " + std::to_string(round)).c_str());
    nvtx_calls::pop();
    nvtx_calls::pop(domain);
    nvtx_calls::pop();
  }
}

void launch(const std::string& folder, int thread) {
  for (int round = 0; round < rounds; ++round) {
    stand_in_launch(200);
    open_ranges(thread, round);
    stand_in_copy(20);
    stand_in_wait(20);
  }
  stand_in_capture(20);
  write_ring(folder);
}

// Does `meanwhile` again and again while all threads do `work`.
template <class Work, class... Meanwhile>
void with_threads(Work work, Meanwhile... meanwhile) {
  std::vector<std::thread> all, others;
  std::atomic<bool> done{false};
  for (int thread = 0; thread < threads; ++thread) all.emplace_back(work, thread);
  const auto repeat = [&done](auto what) {
    while (!done) {
      what();
      usleep(2000);
    }
  };
  (others.emplace_back(repeat, meanwhile), ...);
  for (std::thread& thread : all) thread.join();
  done = true;
  for (std::thread& thread : others) thread.join();
}

void stop_and_start() {
  tetrace_collector_stop();
  tetrace_collector_start();
  tetrace_collector_state();
}

void yield_and_resume() {
  tetrace_collector_yield("another tool");
  tetrace_collector_resume();
}

// What the writer calls while CUPTI is silent.
bool load_driver(const char* path) {
  void* driver = dlopen(path, RTLD_NOW);
  void* tell = driver == nullptr ? nullptr : dlsym(driver, "stand_in_tell");
  if (tell != nullptr) reinterpret_cast<void (*)(void (*)(std::uint32_t))>(tell)(stand_in_driver_call);
  return tell != nullptr;
}

}  // namespace

int main(int, char** arguments) {
  const std::string folder = arguments[1];
  if (!load_driver(arguments[2])) return 4;
  if (!nvtx_calls::attach()) return 3;
  std::thread cuda(InitializeInjection);  // while ranges are recorded already
  open_ranges(0, 0);
  cuda.join();
  with_threads([&](int thread) { launch(folder, thread); }, stop_and_start);
  const auto launch_again = [](int thread) {
    for (int round = 0; round < rounds; ++round) {
      stand_in_launch(50);
      stand_in_capture(1);
      open_ranges(thread, round);
    }
  };
  with_threads(launch_again, stop_and_start, yield_and_resume, yield_and_resume, tetrace_collector_flush);
  // Windows that are long enough for files to grow, and are closed while they do. These threads take no lock.
  const auto open_many = [](int thread) {
    for (int range = 0; thread < 4 && range < 200'000; ++range) nvtx_calls::push("same"), nvtx_calls::pop();
  };
  with_threads(open_many, [] {
    usleep(500'000);
    stop_and_start();
  });
  stand_in_launch(100);
  tetrace_collector_flush();
}
