// Rows that other threads than the writer make: few, so one lock serves. It is a leaf: nothing is called while it is held.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "collector/rows.h"

namespace tetrace::collector {

// `detail` becomes a text, in which the user's home folder is ~; "" is none. It happened now, or `at_ns`.
void hand_over(Happened what, std::string_view detail = {}, std::uint64_t count = 0, std::int64_t at_ns = 0);
void hand_over(const NodeRow& node);
void hand_over(const SyncRow& wait);
// A stream was told to wait of which CUPTI does not know the number: that row counts as dropped.
void hand_over_unknown_stream();

struct Handed {
  std::vector<EventRow> events;
  std::vector<NodeRow> nodes;
  std::vector<SyncRow> waits;
  std::uint64_t too_many = 0;  // rows for which there was no room
  std::uint64_t unknown_streams = 0;
};
Handed take_handed();

std::int64_t now_ns();

}  // namespace tetrace::collector
