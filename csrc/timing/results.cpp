#include "timing/results.h"

#include <algorithm>
#include <cmath>

namespace tetrace::timing {
namespace {

constexpr int sub_bits = 5;
constexpr std::uint64_t sub_buckets = std::uint64_t{1} << sub_bits;
// Rows that wait for somebody to take them, 24 bytes each.
constexpr std::size_t most_rows = std::size_t{1} << 20;
// Steps that are over and wait for the device. A range that is never closed must not keep them for good.
constexpr std::size_t most_steps = 64;

int highest_bit(std::uint64_t value) { return 63 - __builtin_clzll(value); }

std::size_t bucket_of(std::int64_t ns) {
  const std::uint64_t value = static_cast<std::uint64_t>(std::max<std::int64_t>(ns, 0));
  if (value < sub_buckets) return value;
  const int shift = highest_bit(value) - sub_bits;
  return (static_cast<std::size_t>(shift) + 1) * sub_buckets + ((value >> shift) - sub_buckets);
}

// The middle of a bucket.
std::int64_t length_of(std::size_t bucket) {
  if (bucket < sub_buckets) return static_cast<std::int64_t>(bucket);
  const std::size_t shift = bucket / sub_buckets - 1;
  const std::uint64_t low = (sub_buckets + bucket % sub_buckets) << shift;
  return static_cast<std::int64_t>(low + ((std::uint64_t{1} << shift) >> 1));
}

}  // namespace

void Histogram::add(std::int64_t ns) {
  const std::size_t bucket = bucket_of(ns);
  if (bucket >= counts_.size()) counts_.resize(bucket + 1);
  ++counts_[bucket];
  ++total_;
}

std::int64_t Histogram::quantile(double share) const {
  const auto wanted = static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(total_)));
  std::uint64_t seen = 0;
  for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
    seen += counts_[bucket];
    if (seen >= wanted && seen > 0) return length_of(bucket);
  }
  return 0;
}

void Results::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  steps_.clear();
  summaries_.clear();
  rows_.clear();
  rows_dropped_ = 0;
}

void Results::begin_step(std::int32_t number) {
  const std::lock_guard<std::mutex> lock(mutex_);
  steps_.emplace_back();
  steps_.back().number = number;
}

void Results::end_step(std::int32_t number) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Step& step : steps_) step.over = step.over || step.number <= number;
}

Results::Step* Results::find(std::int32_t number) {
  const auto found = std::find_if(steps_.rbegin(), steps_.rend(), [&](const Step& step) { return step.number == number; });
  return found == steps_.rend() ? nullptr : &*found;
}

void Results::expect(std::int32_t number, std::int32_t site) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Step* step = find(number);
  if (step == nullptr) return;
  ++step->pending;
  ++step->sites[site].pending;
}

Results::Totals* Results::settled(std::int32_t number, std::int32_t site) {
  Step* step = find(number);
  if (step == nullptr) return nullptr;
  --step->pending;
  Totals& totals = step->sites[site];
  --totals.pending;
  return &totals;
}

void Results::add(std::int32_t number, std::int32_t site, std::int64_t elapsed_ns) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Totals* totals = settled(number, site);
  if (totals == nullptr) return;
  ++totals->count;
  totals->ns += elapsed_ns;
}

void Results::skip(std::int32_t number, std::int32_t site) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (Totals* totals = settled(number, site)) ++totals->skipped;
}

void Results::drop(std::int32_t number, std::int32_t site) {
  const std::lock_guard<std::mutex> lock(mutex_);
  settled(number, site);
}

void Results::miss(std::int32_t number, std::int32_t site) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (Step* step = find(number)) ++step->sites[site].skipped;
}

void Results::settle(bool all) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::deque<Step> waiting;
  for (std::size_t place = 0; place < steps_.size(); ++place) {
    Step& step = steps_[place];
    const bool too_old = place + most_steps < steps_.size();
    if (all || too_old || (step.over && step.pending == 0)) {
      finish(step);
    } else {
      waiting.push_back(std::move(step));
    }
  }
  steps_.swap(waiting);
}

void Results::finish(const Step& step) {
  for (const auto& [site, totals] : step.sites) {
    const std::int32_t skipped = totals.skipped + totals.pending;
    if (totals.count + skipped == 0) continue;
    if (rows_.size() < most_rows) {
      rows_.push_back({site, step.number, totals.count, skipped, totals.ns});
    } else {
      ++rows_dropped_;
    }
    Summary& summary = summaries_[site];
    if (skipped > 0) {
      ++summary.partial_steps;
      continue;
    }
    summary.min_ns = summary.steps == 0 ? totals.ns : std::min(summary.min_ns, totals.ns);
    summary.max_ns = std::max(summary.max_ns, totals.ns);
    summary.sum_ns += totals.ns;
    summary.count += totals.count;
    ++summary.steps;
    summary.histogram.add(totals.ns);
  }
}

std::vector<Row> Results::take_rows() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Row> taken;
  taken.swap(rows_);
  return taken;
}

std::size_t Results::rows_waiting() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return rows_.size();
}

std::unordered_map<std::int32_t, Summary> Results::summaries() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return summaries_;
}

std::int64_t Results::rows_dropped() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return rows_dropped_;
}

}  // namespace tetrace::timing
