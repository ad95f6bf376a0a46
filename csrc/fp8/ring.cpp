#include "fp8/ring.h"

#include <algorithm>

#include "common/error.h"
#include "fp8/packed_bins.h"
#include "timing/interpreter.h"

namespace tetrace::fp8 {
namespace {

constexpr std::size_t histogram_bytes = histogram_bins * sizeof(std::uint32_t);
constexpr std::size_t usual_words = 256;  // of a histogram

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
  Target target;
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
    target = reserve(stream, tensors, count, call);
  }
  const int error = [&] {
    const timing::Unlocked unlocked;
    return launch(kernels_, stream, tensors, count, call, target);
  }();
  const std::lock_guard<std::mutex> lock(mutex_);
  settle(target.first, count, error);
  return error == timing::success ? static_cast<std::int64_t>(target.first) : -1;
}

// `count` slots, in the part of the step that is under way.
Target Ring::reserve(Stream stream, const Tensor* tensors, std::size_t count, const Call& call) {
  if (parts_.empty() || parts_.back().ended) {
    parts_.emplace_back();
    parts_.back().rows.first = next_;
    parts_.back().bins.first = next_bins_;
  }
  Part& part = parts_.back();
  if (std::find(part.streams.begin(), part.streams.end(), stream) == part.streams.end()) part.streams.push_back(stream);
  for (std::size_t i = 0; i < count; ++i) {
    const Tensor& one = tensors[i];
    headers_[(next_ + i) % capacity_] = {elements_of(one), whole_of(one), one.site, call.step, flags_of(one, call), false};
  }
  Target target = target_;
  target.first = next_;
  target.first_bins = next_bins_;
  next_ += count;
  if (call.histogram) next_bins_ += count;
  part.rows.end = next_;
  part.bins.end = next_bins_;
  ++part.launching;
  return target;
}

void Ring::settle(std::uint64_t first, std::size_t count, int error) {
  const auto part = std::find_if(parts_.begin(), parts_.end(), [&](const Part& one) { return first < one.rows.end; });
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
  if (!find_room(part, &Part::rows) || !find_room(part, &Part::bins) || !join(part)) return false;
  int error = copy_out(part.rows, target_.counters, counters_, sizeof(Counters));
  if (error == timing::success) error = copy_out(part.bins, target_.histograms, histograms_, histogram_bytes);
  if (error == timing::success) error = driver_.base->event_record(events_.back(), side_);
  if (error != timing::success) return fail(error, 0), false;
  part.copied = events_.back();
  events_.pop_back();
  return true;
}

// The lowest memory that no part which was copied before and not read yet holds. False where it is in too small pieces.
bool Ring::find_room(Part& part, Stretch Part::*kind) const {
  const Stretch *oldest = nullptr, *newest = nullptr;
  for (const Part& other : parts_) {
    if (other.copied == nullptr) break;
    if ((other.*kind).size() == 0) continue;
    newest = &(other.*kind);
    if (oldest == nullptr) oldest = newest;
  }
  Stretch& own = part.*kind;
  own.at = 0;
  if (oldest == nullptr) return true;
  const std::uint64_t used = newest->at + newest->size();
  const bool is_wrapped = newest->at < oldest->at;
  if (!is_wrapped && own.size() <= oldest->at) return true;
  own.at = used;
  return used + own.size() <= (is_wrapped ? oldest->at : capacity_);
}

int Ring::copy_out(const Stretch& slots, Pointer from, void* to, std::size_t bytes) {
  const std::uint64_t slot = slots.first % capacity_;
  const std::uint64_t before_end = std::min(slots.size(), capacity_ - slot);
  auto* first = static_cast<char*>(to) + slots.at * bytes;
  const int error = copy_slots(from + slot * bytes, first, before_end * bytes);
  if (error != timing::success) return error;
  return copy_slots(from, first + before_end * bytes, (slots.size() - before_end) * bytes);
}

int Ring::copy_slots(Pointer from, void* to, std::size_t bytes) {
  if (bytes == 0) return timing::success;
  const int error = driver_.copy_out(to, from, bytes, side_);
  return error == timing::success ? driver_.clear(from, 0, bytes, side_) : error;
}

void Ring::read(const Part& part, Taken& taken) {
  const Counters* counters = counters_ + part.rows.at;
  const std::uint32_t* histogram = histograms_ + part.bins.at * histogram_bins;
  taken.rows.reserve(taken.rows.size() + part.rows.size());
  taken.bins.reserve(taken.bins.size() + part.bins.size() * usual_words);
  for (std::uint64_t number = part.rows.first; number < part.rows.end; ++number, ++counters) {
    const Header& header = headers_[number % capacity_];
    const bool has_bins = (header.flags & flag::histogram) != 0;
    if (!header.is_void) {
      Row row = finish(*counters, header.elements, header.whole, header.flags);
      row.order = static_cast<std::int64_t>(number);
      row.site = header.site;
      row.step = header.step;
      taken.rows.push_back(row);
      if (has_bins) pack_bins(histogram, row, taken.bins);
    }
    if (has_bins) histogram += histogram_bins;
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
    if (state != timing::success) fail(state, part.rows.size());
    freed_ = part.rows.end;
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
