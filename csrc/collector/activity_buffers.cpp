#include "collector/activity_buffers.h"

#include <sys/mman.h>

#include <cstring>

namespace tetrace::collector {
namespace {

constexpr std::size_t most_written_off = 64;

std::uint8_t* map() {
  void* memory = mmap(nullptr, ActivityBuffers::buffer_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::uint8_t*>(memory);
}

std::uint8_t* map_ahead() {
  std::uint8_t* memory = map();
  if (memory != nullptr) std::memset(memory, 0, ActivityBuffers::buffer_bytes);  // a write brings the page
  return memory;
}

void unmap(std::uint8_t* memory) { munmap(memory, ActivityBuffers::buffer_bytes); }

}  // namespace

std::uint8_t* ActivityBuffers::take() {
  calls_.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (in_use() >= most) return nullptr;
  std::uint8_t* memory = nullptr;
  if (free_.empty()) {
    memory = map();
  } else {
    memory = free_.back();
    free_.pop_back();
  }
  if (memory != nullptr) lent_.insert(memory);
  return memory;
}

bool ActivityBuffers::fill(std::uint8_t* memory, std::size_t used) {
  calls_.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (lent_.erase(memory) == 0 && written_off_.erase(memory) == 0) return false;
  if (used == 0) {
    free_.push_back(memory);
    return false;
  }
  full_.push_back({memory, used});
  return true;
}

std::vector<FullBuffer> ActivityBuffers::full() {
  std::vector<FullBuffer> taken;
  const std::lock_guard<std::mutex> lock(mutex_);
  taken.swap(full_);
  decoding_ += taken.size();
  return taken;
}

void ActivityBuffers::give_back(std::uint8_t* memory) {
  std::memset(memory, 0, buffer_bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  --decoding_;
  free_.push_back(memory);
}

void ActivityBuffers::prepare() {
  for (;;) {
    std::uint8_t* extra = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (free_.size() > 2 * ready) {
        extra = free_.back();
        free_.pop_back();
      } else if (free_.size() >= ready || in_use() + free_.size() >= most) {
        return;
      }
    }
    if (extra != nullptr) {
      unmap(extra);
      continue;
    }
    std::uint8_t* memory = map_ahead();
    if (memory == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(memory);
  }
}

void ActivityBuffers::write_off() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto at = lent_.begin(); at != lent_.end() && written_off_.size() < most_written_off;) {
    written_off_.insert(*at);
    at = lent_.erase(at);
  }
}

}  // namespace tetrace::collector
