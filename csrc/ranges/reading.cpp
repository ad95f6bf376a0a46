#include "ranges/reading.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "common/error.h"
#include "ranges/ring.h"

namespace tetrace::ranges {
namespace {

// From ticks to nanoseconds: straight lines between anchors, and on at the mean rate before the first and behind the
// last.
class Clock {
 public:
  explicit Clock(const Header& header) {
    const std::uint32_t count = std::min(header.anchors, most_anchors);
    anchors_.assign(header.anchor, header.anchor + count);
    anchors_.push_back(header.closing);
    const auto torn = [](const Anchor& one) { return one.ns == 0 || one.ticks == 0; };
    anchors_.erase(std::remove_if(anchors_.begin(), anchors_.end(), torn), anchors_.end());
    std::sort(anchors_.begin(), anchors_.end(), [](const Anchor& a, const Anchor& b) { return a.ticks < b.ticks; });
    ns_per_tick_ = header.ticks_per_second > 0 ? 1e9 / header.ticks_per_second : 1;
    if (anchors_.empty()) return;
    // Two readings of the wall clock are each good to some 50 ns: over 10 ms they give a better rate than what was
    // measured before the ring was made.
    const double ns = static_cast<double>(anchors_.back().ns - anchors_.front().ns);
    if (ns > 1e7) ns_per_tick_ = ns / static_cast<double>(anchors_.back().ticks - anchors_.front().ticks);
  }

  bool known() const { return !anchors_.empty(); }

  std::int64_t ns(std::uint64_t ticks) const {
    const auto after = std::upper_bound(anchors_.begin(), anchors_.end(), ticks,
                                        [](std::uint64_t at, const Anchor& one) { return at < one.ticks; });
    if (after == anchors_.begin()) return from(*after, ticks, ns_per_tick_);
    const Anchor& before = *(after - 1);
    if (after == anchors_.end()) return from(before, ticks, ns_per_tick_);
    return from(before, ticks,
                static_cast<double>(after->ns - before.ns) / static_cast<double>(after->ticks - before.ticks));
  }

 private:
  static std::int64_t from(const Anchor& anchor, std::uint64_t ticks, double ns_per_tick) {
    return anchor.ns + std::llround(static_cast<double>(static_cast<std::int64_t>(ticks - anchor.ticks)) * ns_per_tick);
  }

  std::vector<Anchor> anchors_;
  double ns_per_tick_;
};

std::vector<char> contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) refuse("cannot read '", path, "'");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void check(const Header& header, const std::string& path) {
  static const char unfinished[sizeof ring_magic] = {};
  if (std::memcmp(header.magic, unfinished, sizeof unfinished) == 0) return;  // killed before the header was there
  if (std::memcmp(header.magic, ring_magic, sizeof ring_magic) != 0) refuse("'", path, "' is no file of ranges");
  if (header.version != ring_version || header.row_bytes != sizeof(Row)) {
    refuse("'", path, "' is of version ", header.version, "; this tetrace reads version ", ring_version);
  }
}

std::vector<Row> rows_of(const std::vector<char>& bytes) {
  std::vector<Row> rows((bytes.size() - header_bytes) / sizeof(Row));
  if (!rows.empty()) std::memcpy(rows.data(), bytes.data() + header_bytes, rows.size() * sizeof(Row));
  const auto unused = [](const Row& row) { return row.start == 0; };
  rows.erase(std::remove_if(rows.begin(), rows.end(), unused), rows.end());
  // Around before inside, where both start at one tick.
  std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return a.start != b.start ? a.start < b.start : a.depth < b.depth;
  });
  return rows;
}

void add(Recorded& recorded, const Row& row, const Clock& clock) {
  const std::int64_t start = clock.ns(row.start);
  recorded.start.push_back(start);
  recorded.end.push_back(row.end == 0 ? 0 : std::max(start, clock.ns(row.end)));
  recorded.value.push_back(row.value);
  recorded.site.push_back(row.site);
  recorded.step.push_back(row.step);
  recorded.depth.push_back(row.depth);
}

}  // namespace

Recorded read_ring(const std::string& path) {
  const std::vector<char> bytes = contents(path);
  Header header{};
  std::memcpy(&header, bytes.data(), std::min(bytes.size(), sizeof header));
  Recorded recorded;
  if (bytes.size() >= sizeof header.magic) check(header, path);
  if (bytes.size() < header_bytes || header.magic[0] == '\0') return recorded;
  recorded.process = header.process;
  recorded.thread = header.thread;
  recorded.name.assign(header.name, strnlen(header.name, sizeof header.name));
  recorded.dropped = static_cast<std::int64_t>(header.dropped);
  recorded.closed = header.closing.ns != 0;
  const Clock clock(header);
  if (!clock.known()) return recorded;
  for (const Row& row : rows_of(bytes)) add(recorded, row, clock);
  return recorded;
}

}  // namespace tetrace::ranges
