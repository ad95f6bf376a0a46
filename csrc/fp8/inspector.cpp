#include "fp8/inspector.h"

#include <pthread.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>

#include "common/error.h"
#include "fp8/ring.h"

namespace tetrace::fp8 {
namespace {

struct Rings {
  std::mutex mutex;
  std::map<int, std::shared_ptr<Ring>> by_device;
};

// Replaced in a forked child, where the parent's device and a held lock are of no use.
std::atomic<Rings*> current{new Rings};

void after_fork_in_child() { current.store(new Rings, std::memory_order_release); }

std::shared_ptr<Ring> ring_of(int device) {
  Rings& rings = *current.load(std::memory_order_acquire);
  const std::lock_guard<std::mutex> lock(rings.mutex);
  const auto found = rings.by_device.find(device);
  return found == rings.by_device.end() ? nullptr : found->second;
}

std::shared_ptr<Ring> open_ring_of(int device) {
  auto ring = ring_of(device);
  if (!ring) refuse("nothing observes device ", device, "; open it first");
  return ring;
}

}  // namespace

void open(int device, std::size_t rows, bool histograms, const std::string& library) {
  static const bool prepared = pthread_atfork(nullptr, nullptr, after_fork_in_child) == 0;
  if (!prepared) refuse("no room for what a forked child must do");
  if (ring_of(device)) refuse("device ", device, " is observed already; close it first");
  auto ring = std::make_shared<Ring>(Kernels::of(device, library), rows, histograms);
  Rings& rings = *current.load(std::memory_order_acquire);
  const std::lock_guard<std::mutex> lock(rings.mutex);
  rings.by_device.emplace(device, std::move(ring));
}

bool is_open(int device) { return ring_of(device) != nullptr; }

void close(int device) {
  std::shared_ptr<Ring> ring;  // ends after the lock
  Rings& rings = *current.load(std::memory_order_acquire);
  const std::lock_guard<std::mutex> lock(rings.mutex);
  const auto found = rings.by_device.find(device);
  if (found == rings.by_device.end()) return;
  ring = std::move(found->second);
  rings.by_device.erase(found);
}

std::int64_t observe(int device, void* stream, const Tensor* tensors, std::size_t count, const Call& call) {
  return open_ring_of(device)->observe(stream, tensors, count, call);
}

void end_step(int device) { open_ring_of(device)->end_step(); }
Taken take(int device) { return open_ring_of(device)->take(); }
void wait(int device) { open_ring_of(device)->wait(); }
Skipped skipped(int device) { return open_ring_of(device)->skipped(); }

}  // namespace tetrace::fp8
