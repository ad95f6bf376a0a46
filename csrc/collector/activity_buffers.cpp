#include "collector/activity_buffers.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>

namespace tetrace::collector {
namespace {

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

// Moves the buffer at `memory` from one list to the end of another; false where it is not in the first.
bool ActivityBuffers::move(std::list<FullBuffer>& from, std::list<FullBuffer>& to, std::uint8_t* memory) {
  const auto found =
      std::find_if(from.begin(), from.end(), [=](const FullBuffer& buffer) { return buffer.memory == memory; });
  if (found == from.end()) return false;
  to.splice(to.end(), from, found);
  return true;
}

std::uint8_t* ActivityBuffers::take() {
  calls_.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (in_use() >= most) return nullptr;
  // The script's own call must not end for want of memory.
  try {
    if (free_.empty()) free_.emplace_back();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  FullBuffer& buffer = free_.back();
  if (buffer.memory == nullptr) buffer.memory = map();
  if (buffer.memory == nullptr) return free_.pop_back(), nullptr;
  lent_.splice(lent_.end(), free_, std::prev(free_.end()));
  return buffer.memory;
}

bool ActivityBuffers::fill(std::uint8_t* memory, std::size_t used) {
  calls_.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard<std::mutex> lock(mutex_);
  std::list<FullBuffer>& to = used == 0 ? free_ : full_;
  if (!move(lent_, to, memory) && !move(written_off_, to, memory)) return false;
  to.back().used = used;
  return used > 0;
}

std::vector<FullBuffer> ActivityBuffers::full() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<FullBuffer> taken(full_.begin(), full_.end());
  decoding_.splice(decoding_.end(), full_);
  return taken;
}

void ActivityBuffers::give_back(std::uint8_t* memory) {
  std::memset(memory, 0, buffer_bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  move(decoding_, free_, memory);
}

void ActivityBuffers::prepare() {
  for (;;) {
    std::list<FullBuffer> one;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (free_.size() > 2 * ready) {
        one.splice(one.end(), free_, std::prev(free_.end()));
      } else if (free_.size() >= ready || in_use() + free_.size() >= most) {
        return;
      }
    }
    if (!one.empty()) {
      unmap(one.front().memory);
      continue;
    }
    one.push_back({map_ahead(), 0});
    if (one.front().memory == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.splice(free_.end(), one);
  }
}

void ActivityBuffers::write_off() {
  const std::lock_guard<std::mutex> lock(mutex_);
  written_off_.splice(written_off_.end(), lent_);
}

}  // namespace tetrace::collector
