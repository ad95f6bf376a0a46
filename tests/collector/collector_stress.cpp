// The whole collector over the stand-in, and rings, from many threads at once: what a thread sanitizer is to look at.
//
// collector_stress FOLDER LIBCUDA, with TETRACE_RECORDING=FOLDER.
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "nvtx_calls.h"
#include "ranges/image.h"
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
constexpr int growing_windows = 3;
constexpr std::uint64_t rows_of_grown = (1 << 20) / 40 + 100;  // more than a file has room for at first (test_cpp.py)
constexpr std::chrono::seconds most_patience{90};

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

// Of the fullest file of NVTX ranges that is still written to. Through the file: what is in memory is its thread's.
std::uint64_t most_rows(const std::string& folder) {
  std::uint64_t most = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string().rfind("nvtx-", 0) != 0) continue;
    tetrace::ranges::Header header{};
    const int file = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    const bool is_whole = pread(file, &header, sizeof header, 0) == sizeof header;
    close(file);
    if (is_whole && header.closing.ns == 0 && header.written > header.dropped) {
      most = std::max(most, header.written - header.dropped);
    }
  }
  return most;
}

// Windows that are open until a file has grown, and are closed while files do. The threads take no lock. False when no
// file grew.
bool close_while_files_grow(const std::string& folder) {
  const auto until = std::chrono::steady_clock::now() + most_patience;
  std::atomic<int> windows{0};
  std::atomic<bool> too_late{false};
  const auto open_many = [&](int thread) {
    while (thread < 4 && windows < growing_windows && !too_late) nvtx_calls::push("same"), nvtx_calls::pop();
  };
  with_threads(open_many, [&] {
    too_late = std::chrono::steady_clock::now() > until;
    if (most_rows(folder) < rows_of_grown) return;
    stop_and_start();
    ++windows;
  });
  return !too_late;
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
  if (!close_while_files_grow(tetrace::ranges::process_folder(folder))) return 5;
  stand_in_launch(100);
  tetrace_collector_flush();
}
