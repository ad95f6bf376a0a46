// Ranges that start on one thread and may end on another. They are few, a handful a step, so one lock serves.
#include <atomic>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "ranges/nvtx.h"
#include "ranges/sites.h"
#include "ranges/stack.h"
#include "ranges/threads.h"

namespace tetrace::ranges {
namespace {

struct Span {
  std::uint64_t session;
  std::string path;  // of the ring that it is in
  Place place;
  Row row;
  bool in_nvtx;
  std::uint64_t nvtx_range;
};

struct Spans {
  std::mutex mutex;
  std::int64_t last = 0;
  std::unordered_map<std::int64_t, Span> open;
};

// Never destroyed: threads may still run while the process ends.
std::atomic<Spans*> current{new Spans};

Spans& spans() { return *current.load(std::memory_order_acquire); }

bool take(std::int64_t handle, Span& span) {
  Spans& all = spans();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.open.find(handle);
  if (found == all.open.end()) return false;
  span = std::move(found->second);
  all.open.erase(found);
  return true;
}

}  // namespace

void abandon_spans() { current.store(new Spans, std::memory_order_release); }

std::int64_t start(std::int32_t number) {
  Thread* thread = this_thread();
  Site* site = find_site(number);
  if (thread == nullptr || site == nullptr) return 0;
  Span span{thread->session, "", {}, {}, nvtx::listening(), 0};
  const std::int32_t now = step.load(std::memory_order_relaxed);
  if (span.in_nvtx) span.nvtx_range = nvtx::start(*site, nvtx::payload(number, now));
  span.row = {ticks(), 0, -1, number, now, -1, 0};
  if (thread->ring) {
    span.path = thread->ring->path();
    span.place = thread->ring->append(span.row);
  }
  Spans& all = spans();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.open.emplace(++all.last, std::move(span));
  return all.last;
}

void end(std::int64_t handle) {
  Span span;
  Thread* thread = this_thread();
  if (!take(handle, span)) return;
  span.row.end = ticks();
  if (span.in_nvtx) nvtx::end(span.nvtx_range);
  if (thread == nullptr || !thread->ring || thread->session != span.session) return;
  if (span.path == thread->ring->path()) {
    thread->ring->end_row(span.place, span.row);
  } else if (!end_row_in_file(span.path, span.place, span.row.end)) {
    thread->ring->append(span.row);
  }
}

}  // namespace tetrace::ranges
