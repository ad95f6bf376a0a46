// What a recording observes of FP8: which steps, on which devices, and what came of it. The device's part is csrc/fp8.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fp8/inspector.h"

namespace tetrace::watch {

extern std::atomic<bool> is_watching;  // in a step that is observed
extern std::atomic<bool> with_histogram;
extern std::atomic<std::int64_t> rows_apart;  // every so many rows of large tensors are looked at; 1: all

struct Counts {
  std::int64_t observed = 0;  // tensors
  std::int64_t taken = 0;     // rows
  std::int64_t captured = 0;  // tensors that were not observed, as the next three
  std::int64_t full = 0;
  std::int64_t failed = 0;
  std::int64_t elsewhere = 0;
  int last_error = 0;
  std::string refusal;  // why a call was refused, empty where none was
};

// Counts and numbers begin anew.
void begin();
// Opens the device; nothing where it is open. Throws as fp8::open does.
void open_device(int device, std::size_t rows, bool histograms, const std::string& library);
// The device on which the calling thread would launch; -1 where it uses none.
int current_device();

constexpr std::int64_t skipped = -1;    // counted as such
constexpr std::int64_t elsewhere = -2;  // the calling thread uses no device, or one that is not open

// Launches on the calling thread's stream; the interpreter's lock is given up meanwhile. Returns the order of the first
// tensor, the others' follow, or one of the above.
std::int64_t send(const fp8::Tensor* tensors, std::size_t count, fp8::Call call);

// Counts tensors that nobody observes, because `send` said `elsewhere`.
void miss(std::size_t count);

// Numbers in the order of all observations of the process, of which these are the next.
std::int64_t take_orders(std::size_t count);

// Begins the copies of all devices, and returns what has come of the earlier ones.
fp8::Taken turn();
fp8::Taken take();
Counts counts();

// Whether anything was lost because a call failed.
bool has_failed();

// Lets all devices go; what was not taken by now is lost.
void close_devices();

}  // namespace tetrace::watch
