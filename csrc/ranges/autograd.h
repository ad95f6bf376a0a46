// Which module's forward made a node of autograd's graph, told by the node's sequence number.
//
// Autograd numbers the nodes that a thread makes. Whenever a thread enters or leaves a module, the next number is noted
// with the module it is in from there on; a node then belongs to the module noted last before its number.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace tetrace::ranges {

constexpr std::int32_t outside = -1;  // of every module
constexpr std::int32_t unknown = -2;

// Whether nodes were made while nothing was noted.
extern std::atomic<bool> has_gap;

class Transitions {
 public:
  // From number `sequence` on, nodes are made in `site`.
  void note(std::int64_t sequence, std::int32_t site);
  // The forward site whose node has this number, `outside` or `unknown`.
  std::int32_t find(std::int64_t sequence) const;
  // `forgot`: nodes that were made before are still to run backward, and are unknown.
  void clear(bool forgot);

 private:
  struct Transition {
    std::int64_t sequence;
    std::int32_t site;
  };
  // The backward of one thread's nodes runs on another, maybe while the first goes on.
  mutable std::mutex mutex_;
  std::vector<Transition> list_;
  bool forgot_ = has_gap.load();
};

// What the observer built against torch gives and calls, handed to it as the capsule `autograd_capsule_name`.
constexpr const char* autograd_capsule_name = "tetrace._C.autograd";
struct Autograd {
  // The calling thread's next sequence number and its number as autograd counts threads; null pointers stop the notes.
  void (*set_sequence)(std::uint64_t (*peek)(), std::uint64_t (*thread_id)());
  // Opens the backward range of the node's module on the calling thread; 1 when it did. Sequence -1 repeats the last.
  std::int32_t (*enter_backward)(std::uint64_t forward_thread, std::int64_t sequence);
  void (*leave_backward)();
};

using Peek = std::uint64_t (*)();
extern std::atomic<Peek> peek_sequence;
extern std::atomic<Peek> autograd_thread;

void set_sequence(Peek peek, Peek thread_id);

// The list of the thread that autograd calls `thread`; null when it has none and none is to be made. A thread holds its own.
// Of threads that have ended the newest few hundred are kept: the backward of their nodes may still come.
std::shared_ptr<Transitions> transitions_of(std::uint64_t thread, bool make);
// `with_gap`: notes begin again in a run whose nodes live on; else nothing was noted before.
void forget_transitions(bool with_gap);
// In a forked child, where a lock may be held by a thread that is not there.
void abandon_transitions();

}  // namespace tetrace::ranges
