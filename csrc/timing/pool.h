// CUDA events that are used again and again: made when first needed, at most so many for each device.
//
// Nothing here waits for a device, and nothing is recorded into a stream that is being captured.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "timing/driver.h"

namespace tetrace::timing {

// Where work is launched: a device by its CUDA ordinal, and a stream of it.
struct Place {
  std::int32_t device = -1;
  Stream stream = nullptr;
};

inline bool operator==(const Place& a, const Place& b) { return a.device == b.device && a.stream == b.stream; }
inline bool operator!=(const Place& a, const Place& b) { return !(a == b); }

// One recorded moment. It is given back when the last interval that begins or ends with it has let it go.
struct Event {
  Handle handle = nullptr;
  std::uint64_t session = 0;
  std::int32_t device = -1;
  std::atomic<std::int32_t> uses{0};
};

// Why there is no moment. `left`: the range was never closed. `no_device`: nothing uses the device yet. `unclear`: it is not
// known whether it has come.
enum class Missed { left, no_device, captured, no_room, failed, unclear };

// Whether a call that is missed for this reason took time of the device that a sum now lacks.
inline bool is_lack(Missed why) {
  return why == Missed::no_room || why == Missed::failed || why == Missed::unclear;
}

class Pool {
 public:
  // At most `most_events` for each device. What an earlier session still holds is destroyed when it comes back.
  void open(const Driver& driver, std::size_t most_events);
  void close();

  // The moment at which all that was launched to `place` so far is over, held once; null with `why` where there is none.
  Event* record(const Place& place, Missed& why);
  void hold(Event* event) { event->uses.fetch_add(1, std::memory_order_relaxed); }
  void release(Event* event);

  // Whether the moment has come: `success`, `not_ready`, or the driver's error.
  int query(const Event* event) const;
  // Nanoseconds between two moments that have come; negative where the driver cannot tell.
  std::int64_t elapsed_ns(const Event* begin, const Event* end) const;

  const Driver& driver() const { return *driver_.load(std::memory_order_acquire); }
  Context context_of(std::int32_t device);
  // The driver's last error that kept a moment from being recorded; 0 where there was none.
  int last_error() const { return last_error_.load(std::memory_order_relaxed); }
  std::size_t made();

 private:
  struct Device {
    int handle = -1;
    Context context = nullptr;
    std::size_t made = 0;
    std::vector<Event*> free;
  };

  Device* device_of(std::int32_t ordinal);
  Event* take(std::int32_t ordinal, Missed& why);
  Event* make(std::int32_t ordinal, std::uint64_t session);
  Event* fail(int error, Missed& why);

  std::atomic<const Driver*> driver_{nullptr};
  std::atomic<std::uint64_t> session_{0};
  std::atomic<int> last_error_{0};
  std::mutex mutex_;  // guards all below
  bool is_open_ = false;
  std::size_t most_events_ = 0;
  std::vector<Device> devices_;
  std::vector<std::unique_ptr<Event>> events_;  // never freed: a thread may still hold one of an earlier session
  std::vector<Event*> blank_;                   // those of them without a handle
};

}  // namespace tetrace::timing
