#include "timing/backward.h"

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

std::size_t common_of(const std::vector<Begun>& chain, const Sites& wanted) {
  std::size_t common = 0;
  while (common < chain.size() && common < wanted.size() && chain[common].site == wanted[common]) ++common;
  return common;
}

}  // namespace

void leave_chain(Backward& backward) { end_chain(backward, 0, nullptr, Missed::left); }

void end_chain(Backward& backward) {
  backward.at = -1;
  if (backward.chain.empty()) return;
  Recorder& now = recorder();
  if (backward.session != now.session()) return end_chain(backward, 0, nullptr, Missed::left);
  Missed why{};
  Event* event = now.record(backward.place, why);
  end_chain(backward, 0, event, why);
  if (event != nullptr) now.release(event);
}

void move_to(Backward& backward, std::int32_t site) {
  Recorder& now = recorder();
  Place place;
  if (now.session() == 0 || !current_place(place)) return;
  const std::lock_guard<std::mutex> lock(backward.mutex);
  if (backward.session != now.session()) end_chain(backward);
  backward.session = now.session();
  if (site == backward.at && place == backward.place) return;
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
