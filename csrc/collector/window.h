// What all parts of the library ask about: is anything recorded now, and where to.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace tetrace::collector {

// A number for each time that recording was switched on; 0 while it is off. Always 0 in a forked child, and where no
// recording was asked for.
extern std::atomic<std::uint64_t> window;

inline bool is_recording() { return window.load(std::memory_order_relaxed) != 0; }

// Set in a forked child, which writes nothing: its files would be the parent's, and CUDA does not survive a fork.
extern std::atomic<bool> is_forked_child;

// Whether this process is to be recorded at all.
bool is_wanted();

// The folder of this program of this process (ranges/image.h), made when it is not there yet; "" where nothing may be
// written: no recording was asked for, a forked child, or the folder cannot be made, which errno explains.
std::string process_folder();

// One line to the user, "tetrace: ...". The script's output stays its own: only what went wrong is said.
void say(const std::string& line);

}  // namespace tetrace::collector
