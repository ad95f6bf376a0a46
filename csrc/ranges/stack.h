// Ranges that nest on a thread, and those that may start on one thread and end on another.
//
// While ranges are off, every function here returns at once.
#pragma once

#include <cstdint>

namespace tetrace::ranges {

// False when there is no such site: nothing was opened.
bool push(std::int32_t site);
void pop();
// Closes the ranges above `depth`.
void unwind(std::int64_t depth);
std::int64_t depth();
// Closes the innermost range of this site and all inside it; nothing when none is open.
void leave(std::int32_t site);
// Innermost open site of a module's forward or backward, or -1.
std::int32_t current_module();

// The handle to end it with, never 0; 0 when nothing was opened.
std::int64_t start(std::int32_t site);
void end(std::int64_t handle);
// In a forked child: the parent's are not the child's to end.
void abandon_spans();

void set_step(std::int32_t number);

// What `Autograd` (autograd.h) calls. `loss` is the backward site of nodes made outside every module, or -1.
std::int32_t enter_backward(std::uint64_t forward_thread, std::int64_t sequence);
void leave_backward();
void set_loss_site(std::int32_t site);

}  // namespace tetrace::ranges
