#include "fp8/ring.h"

#include <algorithm>

#include "common/error.h"
#include "timing/interpreter.h"

namespace tetrace::fp8 {
namespace {

constexpr std::size_t histogram_bytes = histogram_bins * sizeof(std::uint32_t);

}  // namespace

Ring::Ring(const Kernels& kernels, std::size_t rows, bool histograms)
    : kernels_(kernels), driver_(kernels.driver()), capacity_(rows), has_histograms_(histograms), headers_(rows) {
  if (rows == 0) refuse("a ring of 0 rows; give 1 or more");
  const timing::RelaxedCapture relaxed(*driver_.base);
  const timing::CurrentContext current(*driver_.base, kernels_.context());
  try {
    allocate();
  } catch (...) {
    release();
    throw;
  }
}

void Ring::require(int error, const char* what) {
  if (error == timing::success) return;
  refuse("no room for ", capacity_, " rows (", what, ": ", name_of(driver_, error), "); ask for fewer");
}

void Ring::allocate() {
  const std::size_t counter_bytes = capacity_ * sizeof(Counters);
  const std::size_t bin_bytes = has_histograms_ ? capacity_ * histogram_bytes : 0;
  require(driver_.stream_create(&side_, stream_non_blocking), "a stream");
  require(driver_.base->event_create(&joined_, event_disable_timing), "an event");
  require(driver_.allocate(&target_.counters, counter_bytes), "device memory");
  require(driver_.host_allocate(reinterpret_cast<void**>(&counters_), counter_bytes, 0), "pinned memory");
  require(driver_.clear(target_.counters, 0, counter_bytes, side_), "clearing");
  if (has_histograms_) {
    require(driver_.allocate(&target_.histograms, bin_bytes), "device memory");
    require(driver_.host_allocate(reinterpret_cast<void**>(&histograms_), bin_bytes, 0), "pinned memory");
    require(driver_.clear(target_.histograms, 0, bin_bytes, side_), "clearing");
  }
  require(driver_.stream_synchronize(side_), "clearing");
  target_.capacity = capacity_;
}

void Ring::release() {
  if (target_.counters != 0) driver_.release(target_.counters);
  if (target_.histograms != 0) driver_.release(target_.histograms);
  if (counters_ != nullptr) driver_.host_release(counters_);
  if (histograms_ != nullptr) driver_.host_release(histograms_);
  for (Part& part : parts_) {
    if (part.copied != nullptr) events_.push_back(part.copied);
  }
  for (const Handle event : events_) driver_.base->event_destroy(event);
  if (joined_ != nullptr) driver_.base->event_destroy(joined_);
  if (side_ != nullptr) driver_.stream_destroy(side_);
}

// Launches of the caller's may still add to the rows.
Ring::~Ring() {
  const timing::RelaxedCapture relaxed(*driver_.base);
  const timing::CurrentContext current(*driver_.base, kernels_.context());
  driver_.context_synchronize();
  release();
}

bool Ring::is_captured(Stream stream) const {
  int capturing = 0;
  const int error = driver_.base->is_capturing(stream, &capturing);
  return error == timing::capture_implicit || (error == timing::success && capturing != 0);
}

void Ring::fail(int error, std::size_t count) {
  skipped_.failed += static_cast<std::int64_t>(count);
  skipped_.last_error = error;
}

std::int64_t Ring::observe(Stream stream, const Tensor* tensors, std::size_t count, const Call& wanted) {
  Call call = wanted;
  call.histogram = wanted.histogram && has_histograms_;
  check(tensors, count, call);
  if (count == 0) return -1;
  const timing::CurrentContext current(*driver_.base, kernels_.context());
  Target target = target_;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (is_captured(stream)) {
      skipped_.captured += static_cast<std::int64_t>(count);
      return -1;
    }
    if (next_ + count > freed_ + capacity_) {
      skipped_.full += static_cast<std::int64_t>(count);
      return -1;
    }
    target.first = reserve(stream, tensors, count, call);
  }
  const int error = [&] {
    const timing::Unlocked unlocked;
    return launch(kernels_, stream, tensors, count, call, target);
  }();
  const std::lock_guard<std::mutex> lock(mutex_);
  settle(target.first, count, error);
  return error == timing::success ? static_cast<std::int64_t>(target.first) : -1;
}

// The first of `count` slots, in the part of the step that is under way.
std::uint64_t Ring::reserve(Stream stream, const Tensor* tensors, std::size_t count, const Call& call) {
  if (parts_.empty() || parts_.back().ended) {
    parts_.emplace_back();
    parts_.back().first = parts_.back().end = next_;
  }
  Part& part = parts_.back();
  if (std::find(part.streams.begin(), part.streams.end(), stream) == part.streams.end()) part.streams.push_back(stream);
  for (std::size_t i = 0; i < count; ++i) {
    headers_[(next_ + i) % capacity_] = {elements_of(tensors[i]), tensors[i].site, call.step, flags_of(call), false};
  }
  const std::uint64_t first = next_;
  next_ += count;
  part.end = next_;
  ++part.launching;
  return first;
}

void Ring::settle(std::uint64_t first, std::size_t count, int error) {
  const auto part = std::find_if(parts_.begin(), parts_.end(), [&](const Part& one) { return first < one.end; });
  --part->launching;
  if (error == timing::success) return;
  for (std::size_t i = 0; i < count; ++i) headers_[(first + i) % capacity_].is_void = true;
  fail(error, count);
}

void Ring::end_step() {
  const timing::Unlocked unlocked;
  const timing::RelaxedCapture relaxed(*driver_.base);
  const timing::CurrentContext current(*driver_.base, kernels_.context());
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!parts_.empty()) parts_.back().ended = true;
  copy_ended_parts();
}

// In order, so that what is copied last was launched last.
void Ring::copy_ended_parts() {
  for (Part& part : parts_) {
    if (!part.ended) return;
    if (part.copied == nullptr && (part.launching > 0 || !copy(part))) return;
  }
}

// The ring's stream goes on once all streams of the part have come so far. False while one of them is captured: an event
// would become a part of the graph.
bool Ring::join(const Part& part) {
  for (const Stream stream : part.streams) {
    if (is_captured(stream)) return false;
  }
  for (const Stream stream : part.streams) {
    int error = driver_.base->event_record(joined_, stream);
    if (error == timing::success) error = driver_.stream_wait(side_, joined_, 0);
    if (error != timing::success) fail(error, 0);
  }
  return true;
}

bool Ring::copy(Part& part) {
  if (events_.empty()) {
    Handle made = nullptr;
    const int error = driver_.base->event_create(&made, event_disable_timing);
    if (error != timing::success) return fail(error, 0), false;
    events_.push_back(made);
  }
  if (!join(part)) return false;
  const std::uint64_t slot = part.first % capacity_, count = part.end - part.first;
  const std::uint64_t before_end = std::min(count, capacity_ - slot);
  int error = copy_slots(slot, before_end);
  if (error == timing::success && before_end < count) error = copy_slots(0, count - before_end);
  if (error == timing::success) error = driver_.base->event_record(events_.back(), side_);
  if (error != timing::success) return fail(error, 0), false;
  part.copied = events_.back();
  events_.pop_back();
  return true;
}

int Ring::copy_slots(std::uint64_t slot, std::uint64_t count) {
  const Pointer counters = target_.counters + slot * sizeof(Counters);
  int error = driver_.copy_out(counters_ + slot, counters, count * sizeof(Counters), side_);
  if (error == timing::success) error = driver_.clear(counters, 0, count * sizeof(Counters), side_);
  if (!has_histograms_ || error != timing::success) return error;
  const Pointer histograms = target_.histograms + slot * histogram_bytes;
  error = driver_.copy_out(histograms_ + slot * histogram_bins, histograms, count * histogram_bytes, side_);
  return error == timing::success ? driver_.clear(histograms, 0, count * histogram_bytes, side_) : error;
}

void Ring::read(const Part& part, Taken& taken) {
  for (std::uint64_t number = part.first; number < part.end; ++number) {
    const std::uint64_t slot = number % capacity_;
    const Header& header = headers_[slot];
    if (header.is_void) continue;
    Row row = finish(counters_[slot], header.elements, header.flags);
    row.order = static_cast<std::int64_t>(number);
    row.site = header.site;
    row.step = header.step;
    taken.rows.push_back(row);
    if ((header.flags & flag::histogram) != 0) gather_bins(histograms_ + slot * histogram_bins, row.order, taken.bins);
  }
}

Taken Ring::take() {
  const timing::Unlocked unlocked;
  const timing::RelaxedCapture relaxed(*driver_.base);
  const timing::CurrentContext current(*driver_.base, kernels_.context());
  const std::lock_guard<std::mutex> lock(mutex_);
  copy_ended_parts();
  Taken taken;
  while (!parts_.empty() && parts_.front().copied != nullptr) {
    const Part& part = parts_.front();
    const int state = driver_.base->event_query(part.copied);
    if (state == timing::not_ready) break;
    if (state == timing::success) read(part, taken);
    if (state != timing::success) fail(state, part.end - part.first);
    freed_ = part.end;
    events_.push_back(part.copied);
    parts_.pop_front();
  }
  return taken;
}

void Ring::wait() {
  const timing::Unlocked unlocked;
  const timing::CurrentContext current(*driver_.base, kernels_.context());
  driver_.stream_synchronize(side_);
}

Skipped Ring::skipped() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return skipped_;
}

}  // namespace tetrace::fp8
