#include "timing/measured.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "ranges/sites.h"

namespace tetrace::timing {
namespace {

struct Measured {
  bool measured = false;
  std::int32_t device = -1;
  std::int32_t around = -1;
};

struct Modules {
  std::mutex mutex;
  std::unordered_map<std::int32_t, Measured> sites;
  std::unordered_map<std::int32_t, Sites> chains;
};

// Never destroyed: threads may still run while the process ends.
std::atomic<Modules*> current{new Modules};

Modules& modules() { return *current.load(std::memory_order_acquire); }

// The site of the backward of the module whose forward, recompute or backward `site` is.
std::int32_t backward_of(std::int32_t site) {
  const ranges::Site* found = ranges::find_site(site);
  if (found == nullptr || found->kind == ranges::Kind::backward) return site;
  return found->backward_site.load(std::memory_order_relaxed);
}

}  // namespace

void abandon_measured() { current.store(new Modules, std::memory_order_release); }

void measure(std::int32_t site, std::int32_t around, bool measured, std::int32_t device) {
  Modules& all = modules();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.sites[site] = {measured, device, around};
  all.chains.clear();
}

void forget_measured() {
  Modules& all = modules();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.sites.clear();
  all.chains.clear();
}

bool is_measured(std::int32_t site, std::int32_t& device) {
  Modules& all = modules();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.sites.find(site);
  if (found == all.sites.end() || !found->second.measured) return false;
  device = found->second.device;
  return true;
}

Sites chain_of(std::int32_t site) {
  Modules& all = modules();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto known = all.chains.find(site);
  if (known != all.chains.end()) return known->second;
  Sites chain, seen;
  for (std::int32_t at = site; at >= 0 && std::find(seen.begin(), seen.end(), at) == seen.end();) {
    seen.push_back(at);
    const auto found = all.sites.find(at);
    if (found == all.sites.end()) break;
    if (found->second.measured) chain.push_back(at);
    at = backward_of(found->second.around);
  }
  std::reverse(chain.begin(), chain.end());
  return all.chains.emplace(site, std::move(chain)).first->second;
}

}  // namespace tetrace::timing
