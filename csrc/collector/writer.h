// The thread that decodes what CUPTI filled and writes it. The script's threads only hand over.
//
// The disk may be slow or full: then buffers are not given back, CUPTI gets no more of them and counts what it drops.
#pragma once

#include <cstdint>
#include <string>

#include "collector/activity_buffers.h"
#include "collector/call_names.h"
#include "collector/cupti_api.h"

namespace tetrace::collector {

ActivityBuffers& activity_buffers();

// What is recorded from now on is of this CUPTI; both live as long as the process.
void decode_with(const CuptiApi& api, const CallNames& calls);

// Asks CUPTI about once a second for what it has, from now on or until it has been asked a few more times. Only a
// forced flush loses activities that have not ended, so this one is not.
void keep_asking(bool on);
void stop_asking();
// Whether CUPTI is ours; while it is not, its counts of dropped records are left alone.
void hold_cupti(bool on);
// What the thread calls when CUPTI, which is still ours and records, hands over nothing more: since when. Again each
// period, until it is not asked any more.
void when_cupti_is_lost(void (*tell)(std::int64_t since_ns));
// CUPTI is not called any more.
void end_writer();

// What the thread does, too, each time that it wakes. Given before it starts.
void do_while_writing(void (*work)());

// Starts the thread when it does not run yet; false when it cannot be, or has failed.
bool start_writer();
// False where it does not run.
bool wake_writer();
// Why the thread has ended; "" while it has not.
std::string writer_failure();

// Waits until what has been handed over is in the file, or is counted as lost. False after `most_ms`, and where nobody
// writes.
bool wait_for_writer(std::int64_t most_ms);

struct Written {
  std::uint64_t bytes;
  std::uint64_t lost;     // rows that could not be written
  std::uint64_t dropped;  // records that CUPTI dropped
};
Written written();

}  // namespace tetrace::collector
