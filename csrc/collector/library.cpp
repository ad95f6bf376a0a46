// What the library exports, and nothing else. Nothing that goes wrong in here may reach the script.
#include <exception>
#include <string>

#include "collector/collector.h"
#include "collector/nvtx.h"
#include "collector/window.h"

namespace {

using namespace tetrace::collector;

template <class Function>
void guarded(Function f) noexcept {
  try {
    f();
  } catch (const std::exception& error) {
    say(std::string("the collector stops: ") + error.what() + "; the script goes on");
  } catch (...) {
    say("the collector stops; the script goes on");
  }
}

// The library is told to record from the first moment: NVTX ranges come before CUDA.
__attribute__((constructor)) void load() {
  guarded([] { start_as_wanted(); });
}

}  // namespace

#define TETRACE_EXPORT extern "C" __attribute__((visibility("default")))

// The driver calls it in cuInit. 1: loaded.
TETRACE_EXPORT int InitializeInjection() {
  guarded(attach);
  return 1;
}

TETRACE_EXPORT int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_export_table) {
  int found = 0;
  guarded([&] {
    if (!is_wanted()) return;
    activate();
    found = initialize_nvtx(get_export_table);
  });
  return found;
}

TETRACE_EXPORT void tetrace_collector_start() { guarded(start); }

TETRACE_EXPORT void tetrace_collector_stop() { guarded(stop); }

TETRACE_EXPORT void tetrace_collector_flush() { guarded(flush); }

TETRACE_EXPORT void tetrace_collector_yield(const char* who) {
  guarded([&] { yield(who == nullptr ? "another tool" : who); });
}

TETRACE_EXPORT void tetrace_collector_resume() { guarded(resume); }

// Valid until the same thread asks again.
TETRACE_EXPORT const char* tetrace_collector_state() {
  thread_local std::string answer;
  guarded([&] { answer = state(); });
  return answer.c_str();
}
