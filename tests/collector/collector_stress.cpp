// The whole collector over the stand-in, and rings, from many threads at once: what a thread sanitizer is to look at.
//
// collector_stress FOLDER, with TETRACE_RECORDING=FOLDER.
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

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

void launch(const std::string& folder) {
  for (int round = 0; round < rounds; ++round) {
    stand_in_launch(200);
    stand_in_copy(20);
  }
  stand_in_capture(20);
  write_ring(folder);
}

}  // namespace

int main(int, char** arguments) {
  const std::string folder = arguments[1];
  InitializeInjection();
  std::vector<std::thread> all;
  for (int thread = 0; thread < threads; ++thread) all.emplace_back(launch, folder);
  std::atomic<bool> done{false};
  std::thread window([&] {
    while (!done) {
      tetrace_collector_stop();
      tetrace_collector_start();
      tetrace_collector_state();
      usleep(2000);
    }
  });
  for (std::thread& thread : all) thread.join();
  done = true;
  window.join();
  tetrace_collector_yield("another tool");
  tetrace_collector_resume();
  stand_in_launch(100);
  tetrace_collector_flush();
}
