// The open NVTX ranges of each thread and its ring.
//
// NVTX nests push/pop ranges within a domain and a thread: each domain has a stack of its own. It is kept also while
// nothing is recorded, so that depths are right and a pop never closes a range that was opened before the window.
#pragma once

#include "collector/nvtx_texts.h"

namespace tetrace::collector::nvtx {

// How many ranges of the domain were open on the thread before, as NVTX's push returns it.
int push(const Domain& domain, const nvtxEventAttributes_t* event);
// How many are open after it; -1 when none was.
int pop(const Domain& domain);

nvtxRangeId_t start(const Domain& domain, const nvtxEventAttributes_t* event);
void end(nvtxRangeId_t range);

// `number` as gettid counts.
void name_thread(std::uint32_t number, std::string_view name);

}  // namespace tetrace::collector::nvtx
