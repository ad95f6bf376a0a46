#include "timing/backward.h"

#include <utility>

#include "timing/measured.h"
#include "timing/streams.h"

namespace tetrace::timing {
namespace {

// Ends the modules of the chain from number `from` on, at `event` or, where it is null, not at all.
void end_chain(Backward& backward, std::size_t from, Event* event, Missed why) {
  Recorder& now = recorder();
  while (backward.chain.size() > from) {
    const Begun& innermost = backward.chain.back();
    event != nullptr ? now.end(innermost, event) : now.miss(innermost, why);
    backward.chain.pop_back();
  }
}

// The chain goes on elsewhere: modules that are left end on the stream they ran on; of those that are not, a part would
// be on either.
void change_stream(Backward& backward, std::size_t common) {
  Recorder& now = recorder();
  std::vector<Begun> crossing(backward.chain.begin(), backward.chain.begin() + static_cast<std::ptrdiff_t>(common));
  backward.chain.erase(backward.chain.begin(), backward.chain.begin() + static_cast<std::ptrdiff_t>(common));
  end_chain(backward);
  for (const Begun& one : crossing) now.cross(one);
}

// Goes on where another thread stopped. What is open on this one is of another backward.
void continue_chain(Backward& backward, Chain before) {
  end_chain(backward);
  backward.place = before.place;
  backward.chain = std::move(before.modules);
}

std::size_t common_of(const std::vector<Begun>& chain, const Sites& wanted) {
  std::size_t common = 0;
  while (common < chain.size() && common < wanted.size() && chain[common].site == wanted[common]) ++common;
  return common;
}

}  // namespace

bool is_new_here(const Backward& backward, const Node& node) {
  return node.forward_thread != 0 && (backward.chain.empty() || backward.forward_thread != node.forward_thread);
}

Chain take_chain(Backward& backward, const Node& node) {
  const bool same = backward.forward_thread == node.forward_thread && backward.session == recorder().session();
  if (!same || backward.running.load(std::memory_order_acquire) > 0) return {};
  Chain taken{backward.place, {}};
  taken.modules.swap(backward.chain);
  backward.at = -1;
  return taken;
}

void leave_chain(Backward& backward, Missed why) {
  backward.at = -1;
  end_chain(backward, 0, nullptr, why);
}

void end_chain(Backward& backward) {
  if (backward.session != recorder().session()) return leave_chain(backward, Missed::left);
  backward.at = -1;
  if (backward.chain.empty()) return;
  Missed why{};
  Event* event = recorder().record(backward.place, why);
  end_chain(backward, 0, event, why);
  if (event != nullptr) recorder().release(event);
}

void move_to(Backward& backward, const Node& node, Chain before) {
  Recorder& now = recorder();
  const auto& [site, forward_thread, place] = node;
  if (backward.session != now.session()) end_chain(backward);
  backward.session = now.session();
  backward.forward_thread = forward_thread;
  if (!before.modules.empty()) continue_chain(backward, std::move(before));
  else if (site == backward.at && place == backward.place) return;
  const Sites wanted = chain_of(site);
  std::size_t common = common_of(backward.chain, wanted);
  if (place != backward.place && !backward.chain.empty()) {
    change_stream(backward, common);
    common = 0;
  }
  backward.at = site;
  backward.place = place;
  if (common == backward.chain.size() && common == wanted.size()) return;
  Missed why{};
  Event* event = now.record(place, why);
  end_chain(backward, common, event, why);
  for (std::size_t next = common; next < wanted.size(); ++next) {
    if (event == nullptr) {
      now.miss(wanted[next], why);
    } else {
      backward.chain.push_back(now.begin(wanted[next], place, event));
    }
  }
  if (event != nullptr) now.release(event);
}

}  // namespace tetrace::timing
