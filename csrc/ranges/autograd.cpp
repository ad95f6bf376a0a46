#include "ranges/autograd.h"

#include <algorithm>
#include <map>
#include <memory>

namespace tetrace::ranges {
namespace {

// Entries kept for one thread, 16 bytes each. A step of a large model has some ten thousand.
constexpr std::size_t most_transitions = std::size_t{1} << 20;
// Of threads that have ended: a program may start new ones all the time.
constexpr std::size_t most_ended = 256;

struct Lists {
  std::mutex mutex;
  std::map<std::uint64_t, std::shared_ptr<Transitions>> of_thread;  // autograd counts upward: the newest thread is last
  std::size_t look_at = 2 * most_ended;  // so many, before those of ended threads are looked for again
};

// Never destroyed: autograd's threads may still run while the process ends.
std::atomic<Lists*> current{new Lists};

Lists& lists() { return *current.load(std::memory_order_acquire); }

// With the mutex held, without which nobody gets hold of a list that is held by nobody else.
void forget_ended(Lists& all) {
  const auto is_held = [](const auto& one) { return one.second.use_count() > 1; };
  std::size_t ended = all.of_thread.size() - std::count_if(all.of_thread.begin(), all.of_thread.end(), is_held);
  for (auto one = all.of_thread.begin(); ended > most_ended;) {
    if (is_held(*one)) {
      ++one;
    } else {
      one = all.of_thread.erase(one);
      --ended;
    }
  }
  all.look_at = 2 * std::max(all.of_thread.size(), most_ended);
}

}  // namespace

std::atomic<bool> has_gap{false};
std::atomic<Peek> peek_sequence{nullptr};
std::atomic<Peek> autograd_thread{nullptr};

void set_sequence(Peek peek, Peek thread_id) {
  // Another thread may be between reading the one and calling the other: what was given is never taken away.
  if (thread_id != nullptr) autograd_thread.store(thread_id);
  peek_sequence.store(thread_id == nullptr ? nullptr : peek);
}

void Transitions::note(std::int64_t sequence, std::int32_t site) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // Numbers that run backward were started anew; what they said before is void.
  if (!list_.empty() && sequence < list_.back().sequence) list_.clear();
  // No node was made since the last note: it never mattered.
  if (!list_.empty() && sequence == list_.back().sequence) list_.pop_back();
  if (!list_.empty() && site == list_.back().site) return;
  if (list_.size() == most_transitions) {
    list_.erase(list_.begin(), list_.begin() + most_transitions / 2);
    forgot_ = true;
  }
  list_.push_back({sequence, site});
}

std::int32_t Transitions::find(std::int64_t sequence) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (list_.empty()) return unknown;
  // Backward comes soon after forward: what is asked for is near the end of a list that may be long.
  std::size_t reach = 64, last = list_.size(), first = last - std::min(reach, last);
  while (first > 0 && list_[first].sequence > sequence) {
    last = first;
    reach *= 2;
    first -= std::min(reach, first);
  }
  const auto after = std::upper_bound(list_.begin() + first, list_.begin() + last, sequence,
                                      [](std::int64_t at, const Transition& row) { return at < row.sequence; });
  if (after == list_.begin()) return forgot_ ? unknown : outside;
  return (after - 1)->site;
}

void Transitions::clear(bool forgot) {
  const std::lock_guard<std::mutex> lock(mutex_);
  list_.clear();
  forgot_ = forgot;
}

std::shared_ptr<Transitions> transitions_of(std::uint64_t thread, bool make) {
  Lists& all = lists();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.of_thread.find(thread);
  if (found != all.of_thread.end()) return found->second;
  if (!make) return nullptr;
  if (all.of_thread.size() >= all.look_at) forget_ended(all);
  return all.of_thread[thread] = std::make_shared<Transitions>();
}

void forget_transitions(bool with_gap) {
  Lists& all = lists();
  has_gap = with_gap;
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (auto& [thread, list] : all.of_thread) list->clear(with_gap);
}

void abandon_transitions() { current.store(new Lists, std::memory_order_release); }

}  // namespace tetrace::ranges
