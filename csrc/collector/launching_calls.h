// Which calls of CUDA are recorded when not all are.
#pragma once

#include <string_view>

namespace tetrace::collector {

// Whether a call of this name (CUPTI's, "cudaLaunchKernel_ptsz_v7000") launches something, waits for the GPU, allocates
// or frees, or loads code. By name, because numbers of calls differ between versions.
bool is_launching_call(std::string_view name);

}  // namespace tetrace::collector
