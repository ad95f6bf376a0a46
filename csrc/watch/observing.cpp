#include "watch/observing.h"

#include <pthread.h>

#include <deque>
#include <exception>
#include <string>
#include <utility>

#include "common/interpreter.h"
#include "fp8/packed_bins.h"
#include "ranges/threads.h"
#include "timing/streams.h"

namespace tetrace::watch {

std::atomic<bool> is_watching{false};
std::atomic<bool> with_histogram{false};
std::atomic<std::int64_t> rows_apart{1};

namespace {

// An open device. Each numbers what it observes from 0 on; here is what that means among all.
struct Device {
  int number;
  std::int64_t first = 0;  // its own number of the first of `orders`
  std::deque<std::int64_t> orders;
};

// Changed under the interpreter's lock alone.
std::vector<Device> devices;
std::int64_t next_order = 0;
std::int64_t rows_taken = 0;
std::int64_t tensors_sent = 0;
std::int64_t tensors_missed = 0;
Counts of_closed;
std::string refusal;  // why a call was refused, the first time

// The rings are the parent's, and so is the device.
void after_fork_in_child() {
  is_watching = false;
  devices.clear();
}

Device* find_device(int number) {
  for (Device& one : devices) {
    if (one.number == number) return &one;
  }
  return nullptr;
}

std::int64_t remember_orders(Device& device, std::int64_t own, std::size_t count) {
  const std::int64_t order = take_orders(count);
  // Taken already, by a thread that got the interpreter first.
  if (own < device.first) return order;
  const auto place = static_cast<std::size_t>(own - device.first);
  // Two threads may come here the other way round than they launched.
  if (device.orders.size() < place + count) device.orders.resize(place + count, -1);
  for (std::size_t i = 0; i < count; ++i) device.orders[place + i] = order + static_cast<std::int64_t>(i);
  return order;
}

std::int64_t order_of(const Device& device, std::int64_t own) {
  const auto place = static_cast<std::size_t>(own - device.first);
  return own >= device.first && place < device.orders.size() ? device.orders[place] : -1;
}

fp8::Taken take_from(int number) {
  const InterpreterRelease unlocked;
  return fp8::take(number);
}

void append(fp8::Taken& all, Device& device, fp8::Taken&& part) {
  const std::int64_t last = part.rows.back().order;
  for (fp8::Row& row : part.rows) row.order = order_of(device, row.order);
  fp8::renumber_bins(part.bins, [&](std::int64_t order) { return order_of(device, order); });
  for (; device.first <= last && !device.orders.empty(); ++device.first) device.orders.pop_front();
  rows_taken += static_cast<std::int64_t>(part.rows.size());
  if (all.rows.empty()) {
    all = std::move(part);
    return;
  }
  all.rows.insert(all.rows.end(), part.rows.begin(), part.rows.end());
  all.bins.insert(all.bins.end(), part.bins.begin(), part.bins.end());
}

void add(Counts& all, const fp8::Skipped& part) {
  all.captured += part.captured;
  all.full += part.full;
  all.failed += part.failed;
  if (part.last_error != 0) all.last_error = part.last_error;
}

// Called from functions that Python calls directly: nothing may be thrown through those.
std::int64_t launch(const timing::Place& place, const fp8::Tensor* tensors, std::size_t count, const fp8::Call& call) {
  std::string why;
  {
    const InterpreterRelease unlocked;
    try {
      return fp8::observe(place.device, place.stream, tensors, count, call);
    } catch (const std::exception& error) {
      why = error.what();
    }
  }
  if (refusal.empty()) refusal = why;
  return skipped;
}

}  // namespace

void begin() {
  of_closed = Counts{};
  rows_taken = tensors_sent = tensors_missed = next_order = 0;
  refusal.clear();
}

void open_device(int device, std::size_t rows, bool histograms, const std::string& library) {
  static const bool prepared = pthread_atfork(nullptr, nullptr, after_fork_in_child) == 0;
  (void)prepared;
  if (find_device(device) != nullptr) return;
  fp8::open(device, rows, histograms, library);
  devices.push_back(Device{device, 0, {}});
}

int current_device() {
  timing::Place place;
  return timing::current_place(place) ? place.device : -1;
}

std::int64_t take_orders(std::size_t count) {
  const std::int64_t first = next_order;
  next_order += static_cast<std::int64_t>(count);
  return first;
}

std::int64_t send(const fp8::Tensor* tensors, std::size_t count, fp8::Call call) {
  timing::Place place;
  if (!timing::current_place(place) || find_device(place.device) == nullptr) return elsewhere;
  call.step = ranges::step.load(std::memory_order_relaxed);
  const std::int64_t own = launch(place, tensors, count, call);
  // Looked for again: the lock was given up.
  Device* device = own < 0 ? nullptr : find_device(place.device);
  if (device == nullptr) return skipped;
  tensors_sent += static_cast<std::int64_t>(count);
  return remember_orders(*device, own, count);
}

void miss(std::size_t count) { tensors_missed += static_cast<std::int64_t>(count); }

fp8::Taken take() {
  fp8::Taken all;
  for (std::size_t place = 0; place < devices.size(); ++place) {
    const int number = devices[place].number;
    fp8::Taken part = take_from(number);
    // Looked for again: the lock was given up.
    Device* device = find_device(number);
    if (device != nullptr && !part.rows.empty()) append(all, *device, std::move(part));
  }
  return all;
}

fp8::Taken turn() {
  fp8::Taken all = take();
  // By place: the lock is given up meanwhile, and a device may be opened.
  for (std::size_t place = 0; place < devices.size(); ++place) fp8::end_step(devices[place].number);
  return all;
}

Counts counts() {
  Counts now = of_closed;
  for (const Device& device : devices) add(now, fp8::skipped(device.number));
  now.refusal = refusal;
  now.observed = tensors_sent;
  now.taken = rows_taken;
  now.elsewhere = tensors_missed;
  return now;
}

bool has_failed() {
  const Counts now = counts();
  return now.failed != 0 || now.last_error != 0 || !now.refusal.empty();
}

void close_devices() {
  is_watching = false;
  const std::vector<Device> open = std::move(devices);
  devices.clear();
  for (const Device& device : open) {
    add(of_closed, fp8::skipped(device.number));
    fp8::close(device.number);
  }
}

}  // namespace tetrace::watch
