// NVTX ranges of every domain but "tetrace", into rings named nvtx-THREAD.bin beside cupti.bin.
//
// A row's `site` is the range's nvtx_text_id (texts.h) as a signed number, its `value` the autograd sequence number that
// emit_nvtx wrote behind the name (which is cut off there: nearly every such text is another one) or -1, its `step` -1.
// What the code needs of the library is in texts.h and window.h: a range is recorded when `window` is not 0 at its push.
#pragma once

#include <nvtx3/nvToolsExt.h>

namespace tetrace::collector {

// Puts this library's functions into NVTX's tables. 1 when it did, 0 when this NVTX is none that it knows. Called once
// for each copy of NVTX in the process, at that copy's first call, from any thread.
int initialize_nvtx(NvtxGetExportTableFunc_t get_export_table);

// Closes the rings of all threads: the window was closed, or the process ends. Other threads may still be in a range.
void close_nvtx();

// Makes the files of rings grow whose threads have asked for it. For the writer.
void extend_nvtx();

// In a forked child: the rings are the parent's, unmapped and neither cut nor written. Only the forking thread is there.
// `lock_nvtx` before the fork, `unlock_nvtx` after it in the parent.
void lock_nvtx();
void unlock_nvtx();
void abandon_nvtx();

}  // namespace tetrace::collector
