// What CUPTI calls: for buffers, when a node of a graph is made, and when a stream is told to wait.
#pragma once

#include <string>

#include "collector/cupti_api.h"

namespace tetrace::collector {

// Buffers from and to `activity_buffers()`. To be called again after another tool put its own functions there.
cupti::Result register_buffers(const CuptiApi& api);

// Nodes of graphs become rows, from now on until `unsubscribe`, and waits of streams while the calls for them are enabled.
// Null when CUPTI refuses; `reason` says who holds it.
Subscriber subscribe(const CuptiApi& api, std::string& reason);

// From now on CUPTI is given no buffer: the process ends.
void end_buffers();

}  // namespace tetrace::collector
