// What the library is doing, and its changes from one state to the next. library.cpp exports these.
#pragma once

#include <string>

namespace tetrace::collector {

// From the driver, in cuInit: finds CUPTI and takes it. Records from here on if that is wanted.
void attach();
// The window. Before `attach` they only say what is wanted; NVTX ranges are recorded from `start` on all the same.
void start();
void stop();
// All that CUPTI has and all that was handed over is in the file then. At most some seconds.
void flush();
// CUPTI to another tool and back.
void yield(const std::string& who);
void resume();
// One line of JSON.
std::string state();
// When the library is loaded: the window is open if it is to be from the start.
void start_as_wanted();
// Files may be written from now on: CUDA or NVTX is used in this process.
void activate();

}  // namespace tetrace::collector
