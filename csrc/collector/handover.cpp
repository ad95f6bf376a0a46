#include "collector/handover.h"

#include <mutex>
#include <new>
#include <utility>

#include "collector/options.h"
#include "collector/texts.h"
#include "ranges/clock.h"

namespace tetrace::collector {
namespace {

// What a disk that hangs may cost: 64 MiB of nodes, 80 of waits.
constexpr std::size_t most_nodes = std::size_t{1} << 21;
constexpr std::size_t most_waits = std::size_t{1} << 21;
constexpr std::size_t most_events = std::size_t{1} << 14;

struct Waiting {
  std::mutex mutex;
  Handed rows;
};

Waiting& waiting() {
  static Waiting& only = *new Waiting;  // never destroyed: threads may run while the process ends
  return only;
}

template <class Row>
void add(std::vector<Row>& rows, const Row& row, std::size_t most, std::uint64_t& too_many) {
  // CUPTI calls this inside a call of the script's, which must not end for want of memory.
  try {
    if (rows.size() < most) return rows.push_back(row);
  } catch (const std::bad_alloc&) {
  }
  ++too_many;
}

}  // namespace

std::int64_t now_ns() { return ranges::read_clock(CLOCK_REALTIME); }

void hand_over(Happened what, std::string_view detail, std::uint64_t count, std::int64_t at_ns) {
  const std::uint32_t text = detail.empty() ? no_text : own_text_id(without_home(detail));
  Waiting& all = waiting();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const std::int64_t at = at_ns == 0 ? now_ns() : at_ns;
  add(all.rows.events, {at, static_cast<std::uint32_t>(what), text, count}, most_events, all.rows.too_many);
}

void hand_over(const NodeRow& node) {
  Waiting& all = waiting();
  const std::lock_guard<std::mutex> lock(all.mutex);
  add(all.rows.nodes, node, most_nodes, all.rows.too_many);
}

void hand_over(const SyncRow& wait) {
  Waiting& all = waiting();
  const std::lock_guard<std::mutex> lock(all.mutex);
  add(all.rows.waits, wait, most_waits, all.rows.too_many);
}

void hand_over_unknown_stream() {
  Waiting& all = waiting();
  const std::lock_guard<std::mutex> lock(all.mutex);
  ++all.rows.unknown_streams;
}

Handed take_handed() {
  Waiting& all = waiting();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return std::exchange(all.rows, {});
}

}  // namespace tetrace::collector
