// Who says on which stream of a device the calling thread would launch now: torch, which knows it for each thread.
#pragma once

#include <cstdint>

#include "timing/pool.h"

namespace tetrace::timing {

// Given a device, or -1 for the thread's current one, tells both; 0 where the thread uses no device.
using Source = int (*)(std::int32_t* device, void** stream);

// Two sources: `quick` needs no interpreter and is asked first; either may be null.
void set_sources(Source quick, Source slow);
bool current_place(Place& place, std::int32_t device = -1);

}  // namespace tetrace::timing
