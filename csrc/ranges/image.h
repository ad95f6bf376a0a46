// The folder of a program in a recording.
//
// A process may run several programs, one after the other (exec), and its number may be another one's later, or at the
// same time on another machine. Each has a folder of its own: what it numbers, texts and sites, is numbered anew.
#pragma once

#include <string>

namespace tetrace::ranges {

// RECORDING/process-PID, or process-PID-1 and so on where another program has that. Made at the first call, with an empty
// file in it that says whose it is; later calls find it, also those of another library in the same program. "" where it
// cannot be made, and errno says why.
std::string process_folder(const std::string& recording);

}  // namespace tetrace::ranges
