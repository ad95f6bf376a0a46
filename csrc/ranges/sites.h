// What ranges are called: registered once, found by number without a lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace tetrace::ranges {

enum class Kind : std::int32_t { other = 0, forward = 1, backward = 2 };

struct Site {
  std::string name;
  std::uint32_t category = 0;
  Kind kind = Kind::other;
  std::atomic<bool> only_in_ring{false};  // a tool that listens is not told
  std::atomic<void*> registered{nullptr};       // NVTX's handle of the name, once a tool listened
  std::atomic<std::int32_t> backward_site{-1};  // of a forward site
};

// The number of a new site. Throws when the table is full, at four million.
std::int32_t add_site(std::string name, std::uint32_t category, Kind kind);

constexpr std::int32_t sites_per_block = 1024;
constexpr std::int32_t most_blocks = 4096;
extern std::atomic<std::int32_t> site_count;
extern std::atomic<Site*> site_blocks[most_blocks];

// Null when no site has that number.
inline Site* find_site(std::int64_t number) {
  if (number < 0 || number >= site_count.load(std::memory_order_acquire)) return nullptr;
  return site_blocks[number / sites_per_block].load(std::memory_order_relaxed) + number % sites_per_block;
}

}  // namespace tetrace::ranges
