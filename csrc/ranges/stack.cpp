#include "ranges/stack.h"

#include "ranges/nvtx.h"
#include "ranges/sites.h"
#include "ranges/threads.h"
#include "timing/marks.h"

namespace tetrace::ranges {
namespace {

void note_transition(Thread& thread) {
  const Peek peek = peek_sequence.load(std::memory_order_acquire);
  if (peek == nullptr) return;
  if (thread.transitions == nullptr) thread.transitions = transitions_of(autograd_thread.load()(), true);
  thread.transitions->note(static_cast<std::int64_t>(peek()), thread.open.empty() ? outside : thread.open.back().forward);
}

void begin_interval(const Thread& thread, std::int32_t number, Kind kind) {
  const std::size_t depth = thread.open.size() - 1;
  const bool from_node = thread.open.back().from_node;
  from_node ? timing::node_opened(number, thread.asked_thread, depth) : timing::range_opened(number, kind, depth);
}

void open_range(Thread& thread, std::int32_t number, Site& site, std::int64_t value, bool from_node) {
  const bool first = thread.open.empty();
  Open open{};
  open.in_nvtx = nvtx::listening() && !site.only_in_ring.load(std::memory_order_relaxed);
  open.from_node = from_node;
  open.module = site.kind != Kind::other ? number : first ? -1 : thread.open.back().module;
  open.forward = site.kind == Kind::forward ? number : first ? -1 : thread.open.back().forward;
  const std::int32_t now = step.load(std::memory_order_relaxed);
  if (open.in_nvtx) nvtx::push(site, nvtx::payload(number, now));
  open.row = {ticks(), 0, value, number, now, static_cast<std::int32_t>(thread.open.size()), 0};
  if (thread.ring) open.place = thread.ring->append(open.row);
  thread.open.push_back(open);
  if (site.kind == Kind::forward) note_transition(thread);
  // Last, and in `close_range` first, so that an interval on the stream holds nothing of ours.
  if (timing::is_sampling.load(std::memory_order_relaxed)) begin_interval(thread, number, site.kind);
}

void close_range(Thread& thread) {
  if (timing::is_open.load(std::memory_order_relaxed)) timing::range_closed(thread.open.size() - 1);
  Open& open = thread.open.back();
  open.row.end = ticks();
  if (open.in_nvtx) nvtx::pop();
  if (thread.ring) thread.ring->end_row(open.place, open.row);
  const bool forward = open.forward == open.row.site;
  thread.open.pop_back();
  if (forward) note_transition(thread);
}

void unwind(Thread& thread, std::size_t depth) {
  while (thread.open.size() > depth) close_range(thread);
}

}  // namespace

bool push(std::int32_t number) {
  Thread* thread = this_thread();
  if (thread == nullptr) return true;
  Site* site = find_site(number);
  if (site == nullptr) return false;
  open_range(*thread, number, *site, -1, false);
  return true;
}

void pop() {
  Thread* thread = this_thread();
  if (thread != nullptr && !thread->open.empty()) close_range(*thread);
}

void unwind(std::int64_t depth) {
  Thread* thread = this_thread();
  if (thread != nullptr && depth >= 0) unwind(*thread, static_cast<std::size_t>(depth));
}

std::int64_t depth() {
  const Thread* thread = this_thread();
  return thread == nullptr ? 0 : static_cast<std::int64_t>(thread->open.size());
}

void leave(std::int32_t site) {
  Thread* thread = this_thread();
  if (thread == nullptr) return;
  for (std::size_t above = thread->open.size(); above > 0; --above) {
    if (thread->open[above - 1].row.site == site) return unwind(*thread, above - 1);
  }
}

std::int32_t current_module() {
  const Thread* thread = this_thread();
  return thread == nullptr || thread->open.empty() ? -1 : thread->open.back().module;
}

void set_step(std::int32_t number) {
  step.store(number, std::memory_order_relaxed);
  if (is_on()) nvtx::find_tool();  // one that was set after ranges were switched on
}

namespace {

std::atomic<std::int32_t> loss_site{-1};

const Transitions* transitions_from(Thread& thread, std::uint64_t forward_thread) {
  if (thread.asked == nullptr || thread.asked_thread != forward_thread) {
    thread.asked_thread = forward_thread;
    thread.asked = transitions_of(forward_thread, false);
  }
  return thread.asked.get();
}

std::int32_t backward_site_of(Thread& thread, std::uint64_t forward_thread, std::int64_t sequence) {
  if (sequence < 0) return thread.last_backward;
  const Transitions* transitions = transitions_from(thread, forward_thread);
  const std::int32_t forward = transitions == nullptr ? unknown : transitions->find(sequence);
  if (forward == outside) return loss_site.load(std::memory_order_relaxed);
  const Site* site = find_site(forward);
  return site == nullptr ? -1 : site->backward_site.load(std::memory_order_relaxed);
}

}  // namespace

void set_loss_site(std::int32_t site) { loss_site.store(site, std::memory_order_relaxed); }

std::int32_t enter_backward(std::uint64_t forward_thread, std::int64_t sequence) {
  Thread* thread = this_thread();
  if (thread == nullptr) return 0;
  thread->last_backward = backward_site_of(*thread, forward_thread, sequence);
  Site* site = find_site(thread->last_backward);
  if (site == nullptr) {
    // What the node takes is of no module: least of all of the one before.
    if (timing::is_sampling.load(std::memory_order_relaxed)) {
      timing::node_opened(-1, forward_thread, thread->open.size());
    }
    return 0;
  }
  open_range(*thread, thread->last_backward, *site, sequence, true);
  return 1;
}

void leave_backward() {
  Thread* thread = this_thread();
  if (thread == nullptr) return;
  for (std::size_t above = thread->open.size(); above > 0; --above) {
    if (thread->open[above - 1].from_node) return unwind(*thread, above - 1);
  }
}

}  // namespace tetrace::ranges
