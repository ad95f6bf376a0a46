#include "ranges/sites.h"

#include <mutex>
#include <utility>

#include "common/error.h"

namespace tetrace::ranges {

std::atomic<std::int32_t> site_count{0};
std::atomic<Site*> site_blocks[most_blocks];

std::int32_t add_site(std::string name, std::uint32_t category, Kind kind) {
  static std::mutex adding;
  const std::lock_guard<std::mutex> lock(adding);
  const std::int32_t number = site_count.load(std::memory_order_relaxed);
  if (number == sites_per_block * most_blocks) refuse("no room for more than ", number, " sites");
  std::atomic<Site*>& block = site_blocks[number / sites_per_block];
  // Never freed: a range may close at any time, also while the process ends.
  if (number % sites_per_block == 0) block.store(new Site[sites_per_block], std::memory_order_relaxed);
  Site& site = block.load(std::memory_order_relaxed)[number % sites_per_block];
  site.name = std::move(name);
  site.category = category;
  site.kind = kind;
  site_count.store(number + 1, std::memory_order_release);
  return number;
}

}  // namespace tetrace::ranges
