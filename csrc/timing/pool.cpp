#include "timing/pool.h"

#include <cmath>

#include "timing/interpreter.h"

namespace tetrace::timing {

void Pool::open(const Driver& driver, std::size_t most_events) {
  const std::lock_guard<std::mutex> lock(mutex_);
  driver_ = &driver;
  is_open_ = true;
  most_events_ = most_events;
  last_error_ = 0;
  ++session_;
}

void Pool::close() {
  std::vector<Device> devices;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_open_ = false;
    ++session_;
    devices.swap(devices_);
  }
  const RelaxedCapture relaxed(driver());
  for (Device& device : devices) {
    if (device.context == nullptr) continue;
    for (Event* event : device.free) driver().event_destroy(event->handle);
    driver().primary_release(device.handle);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Device& device : devices) {
    for (Event* event : device.free) event->handle = nullptr;
    blank_.insert(blank_.end(), device.free.begin(), device.free.end());
  }
}

// With `mutex_` held. Null where nothing uses the device: a context is never made, only found. And once it was closed.
Pool::Device* Pool::device_of(std::int32_t ordinal) {
  if (ordinal < 0 || !is_open_) return nullptr;
  const auto place = static_cast<std::size_t>(ordinal);
  if (place >= devices_.size()) devices_.resize(place + 1);
  Device& device = devices_[place];
  if (device.context != nullptr) return &device;
  unsigned flags = 0;
  int active = 0;
  if (driver().device_get(&device.handle, ordinal) != success) return nullptr;
  if (driver().primary_state(device.handle, &flags, &active) != success || active == 0) return nullptr;
  if (driver().primary_retain(&device.context, device.handle) != success) device.context = nullptr;
  return device.context == nullptr ? nullptr : &device;
}

Context Pool::context_of(std::int32_t ordinal) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Device* device = device_of(ordinal);
  return device == nullptr ? nullptr : device->context;
}

std::size_t Pool::made() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::size_t sum = 0;
  for (const Device& device : devices_) sum += device.made;
  return sum;
}

Event* Pool::fail(int error, Missed& why) {
  last_error_.store(error, std::memory_order_relaxed);
  why = Missed::failed;
  return nullptr;
}

Event* Pool::record(const Place& place, Missed& why) {
  const Context context = context_of(place.device);
  if (context == nullptr) {
    why = Missed::no_device;
    return nullptr;
  }
  const CurrentContext current(driver(), context);
  int capturing = 0;
  const int asked = driver().is_capturing(place.stream, &capturing);
  if (asked == capture_implicit || (asked == success && capturing != 0)) {
    why = Missed::captured;
    return nullptr;
  }
  if (asked != success) return fail(asked, why);
  Event* event = take(place.device, why);
  if (event == nullptr) return nullptr;
  event->uses.store(1, std::memory_order_relaxed);
  const int recorded = [&] {
    const Unlocked unlocked;
    return driver().event_record(event->handle, place.stream);
  }();
  if (recorded == success) return event;
  release(event);
  return fail(recorded, why);
}

Event* Pool::take(std::int32_t ordinal, Missed& why) {
  std::uint64_t session = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    Device* device = device_of(ordinal);
    if (device == nullptr) {
      why = Missed::no_device;
      return nullptr;
    }
    if (!device->free.empty()) {
      Event* event = device->free.back();
      device->free.pop_back();
      return event;
    }
    if (device->made >= most_events_) {
      why = Missed::no_room;
      return nullptr;
    }
    ++device->made;
    session = session_;
  }
  Event* event = make(ordinal, session);
  if (event == nullptr) why = Missed::failed;
  return event;
}

// Of the session in which it was counted, which may be over once it is made: then no device has room for it.
Event* Pool::make(std::int32_t ordinal, std::uint64_t session) {
  Handle handle = nullptr;
  int result;
  {
    const RelaxedCapture relaxed(driver());
    result = driver().event_create(&handle, 0);  // CU_EVENT_DEFAULT: with its time
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (result != success) {
    last_error_.store(result, std::memory_order_relaxed);
    if (session == session_) --devices_[static_cast<std::size_t>(ordinal)].made;
    return nullptr;
  }
  if (blank_.empty()) {
    events_.push_back(std::make_unique<Event>());
    blank_.push_back(events_.back().get());
  }
  Event* event = blank_.back();
  blank_.pop_back();
  event->handle = handle;
  event->session = session;
  event->device = ordinal;
  return event;
}

void Pool::release(Event* event) {
  if (event->uses.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (event->session == session_) {
    devices_[static_cast<std::size_t>(event->device)].free.push_back(event);
    return;
  }
  const RelaxedCapture relaxed(driver());
  driver().event_destroy(event->handle);
  event->handle = nullptr;
  blank_.push_back(event);
}

int Pool::query(const Event* event) const { return driver().event_query(event->handle); }

std::int64_t Pool::elapsed_ns(const Event* begin, const Event* end) const {
  float ms = 0;
  if (driver().event_elapsed(&ms, begin->handle, end->handle) != success || !(ms >= 0)) return -1;
  return std::llround(static_cast<double>(ms) * 1e6);
}

}  // namespace tetrace::timing
