// Rows on a device, taken one a tensor and copied to the host once a step.
//
// A slot goes round: cleared, added to by a launch on the caller's stream, copied out and cleared on a stream of the ring,
// read on the host, free again. The host sees by an event that the device is through with it, so no launch ever waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "fp8/inspector.h"
#include "fp8/kernels.h"
#include "fp8/tensor_stats.h"

namespace tetrace::fp8 {

class Ring {
 public:
  Ring(const Kernels& kernels, std::size_t rows, bool histograms);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  std::int64_t observe(Stream stream, const Tensor* tensors, std::size_t count, const Call& call);
  void end_step();
  Taken take();
  void wait();
  Skipped skipped() const;

 private:
  // What the host knows of a slot.
  struct Header {
    std::uint64_t elements;
    std::int32_t site;
    std::int32_t step;
    std::uint32_t flags;
    bool is_void;  // its launch failed
  };
  // The rows of a step, from `first` to `end`.
  struct Part {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
    int launching = 0;  // calls that have their slots, and are not launched yet
    bool ended = false;
    Handle copied = nullptr;  // once the copy is under way
    std::vector<Stream> streams;
  };

  void allocate();
  void release();
  void require(int error, const char* what);
  std::uint64_t reserve(Stream stream, const Tensor* tensors, std::size_t count, const Call& call);
  void settle(std::uint64_t first, std::size_t count, int error);
  void copy_ended_parts();
  bool copy(Part& part);
  bool join(const Part& part);
  int copy_slots(std::uint64_t slot, std::uint64_t count);
  bool is_captured(Stream stream) const;
  void read(const Part& part, Taken& taken);
  void fail(int error, std::size_t count);

  const Kernels& kernels_;
  const Driver& driver_;
  const std::uint64_t capacity_;
  const bool has_histograms_;
  Target target_;  // without `first`
  Stream side_ = nullptr;
  Handle joined_ = nullptr;
  Counters* counters_ = nullptr;         // of the host
  std::uint32_t* histograms_ = nullptr;  // likewise

  // Never held while the interpreter is waited for.
  mutable std::mutex mutex_;
  std::vector<Header> headers_;
  std::deque<Part> parts_;
  std::vector<Handle> events_;  // free ones
  std::uint64_t next_ = 0;
  std::uint64_t freed_ = 0;
  Skipped skipped_;
};

}  // namespace tetrace::fp8
