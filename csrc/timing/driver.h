// The few functions of CUDA's driver that time needs, found in libcuda when it is first asked for: nothing links it, and
// no CUDA header is needed to build this.
#pragma once

#include <cstdint>
#include <string>

namespace tetrace::timing {

// CUresult (cuda.h); those that are told apart here.
enum Result : int {
  success = 0,
  not_ready = 600,
  // Of the legacy default stream while a stream that it waits for is captured. Asking does not end the capture.
  capture_implicit = 906,
};

using Context = void*;  // CUcontext
using Stream = void*;   // CUstream; 0 is the legacy default stream
using Handle = void*;   // CUevent

struct Driver {
  int (*device_get)(int* device, int ordinal);
  int (*primary_state)(int device, unsigned* flags, int* active);
  int (*primary_retain)(Context*, int device);
  int (*primary_release)(int device);
  int (*current_context)(Context*);
  int (*push_context)(Context);
  int (*pop_context)(Context*);
  int (*exchange_capture_mode)(int* mode);
  int (*is_capturing)(Stream, int* status);
  int (*event_create)(Handle*, unsigned flags);
  int (*event_destroy)(Handle);
  int (*event_record)(Handle, Stream);
  int (*event_query)(Handle);
  int (*event_elapsed)(float* ms, Handle begin, Handle end);
};

// Loaded once, and there until the process ends. Throws with the reason when `library` does not load, or lacks a function.
const Driver& load_driver(const std::string& library);

// While it lives, calls of this thread that a capture begun elsewhere would forbid (making an event, asking whether it
// is over) are allowed, and do not end that capture.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const Driver& driver) : driver_(driver) { driver_.exchange_capture_mode(&mode_); }
  ~RelaxedCapture() { driver_.exchange_capture_mode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  const Driver& driver_;
  int mode_ = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED; then the thread's own, to be put back
};

// While it lives, `context` is current on this thread. Costs nothing where it is already. Autograd's thread of device 0
// has none until it first launches.
class CurrentContext {
 public:
  CurrentContext(const Driver& driver, Context context);
  ~CurrentContext();
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  const Driver& driver_;
  bool pushed_ = false;
};

}  // namespace tetrace::timing
