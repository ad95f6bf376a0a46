#include "ranges/reading.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <fstream>
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

// What is in the file from where it stands on, as far as it fits. Returns how many bytes that is.
template <class T>
std::size_t take(std::ifstream& file, T* into, std::size_t count) {
  file.read(reinterpret_cast<char*>(into), static_cast<std::streamsize>(count * sizeof(T)));
  return static_cast<std::size_t>(file.gcount());
}

void check(const Header& header, const std::string& path) {
  static const char unfinished[sizeof ring_magic] = {};
  if (std::memcmp(header.magic, unfinished, sizeof unfinished) == 0) return;  // killed before the header was there
  if (std::memcmp(header.magic, ring_magic, sizeof ring_magic) != 0) refuse("'", path, "' is no file of ranges");
  if (header.version != ring_version || header.row_bytes != sizeof(Row)) {
    refuse("'", path, "' is of version ", header.version, "; this tetrace reads version ", ring_version);
  }
}

bool before(const Row& a, const Row& b) {
  // Around before inside, where both start at one tick.
  return a.start != b.start ? a.start < b.start : a.depth < b.depth;
}

std::vector<Row> rows_of(std::ifstream& file, std::size_t bytes) {
  std::vector<Row> rows(bytes > header_bytes ? (bytes - header_bytes) / sizeof(Row) : 0);
  file.seekg(header_bytes);
  rows.resize(take(file, rows.data(), rows.size()) / sizeof(Row));
  const auto unused = [](const Row& row) { return row.start == 0; };
  rows.erase(std::remove_if(rows.begin(), rows.end(), unused), rows.end());
  if (!std::is_sorted(rows.begin(), rows.end(), before)) std::stable_sort(rows.begin(), rows.end(), before);
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

void reserve(Recorded& recorded, std::size_t rows) {
  for (auto* column : {&recorded.start, &recorded.end, &recorded.value}) column->reserve(rows);
  for (auto* column : {&recorded.site, &recorded.step, &recorded.depth}) column->reserve(rows);
}

}  // namespace

Recorded read_ring(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) refuse("cannot read '", path, "'");
  const auto bytes = static_cast<std::size_t>(std::max<std::streamoff>(0, file.tellg()));
  file.seekg(0);
  Header header{};
  const std::size_t found = take(file, &header, 1);
  file.clear();
  Recorded recorded;
  if (found >= sizeof header.magic) check(header, path);
  if (bytes < header_bytes || header.magic[0] == '\0') return recorded;
  recorded.process = header.process;
  recorded.thread = header.thread;
  recorded.name.assign(header.name, strnlen(header.name, sizeof header.name));
  recorded.dropped = static_cast<std::int64_t>(header.dropped);
  recorded.closed = header.closing.ns != 0;
  const Clock clock(header);
  if (!clock.known()) return recorded;
  const std::vector<Row> rows = rows_of(file, bytes);
  reserve(recorded, rows.size());
  for (const Row& row : rows) add(recorded, row, clock);
  return recorded;
}

}  // namespace tetrace::ranges
