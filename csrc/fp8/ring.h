// Rows on a device, taken one a tensor and copied to the host once a step.
//
// A slot goes round: cleared, added to by a launch on the caller's stream, copied out and cleared on a stream of the ring,
// read on the host, free again. The host sees by an event that the device is through with it, so no launch ever waits.
//
// Histograms have slots of their own, in the order of the rows that have one: no other bins are copied. What is copied
// goes to the lowest memory of the host that is free, so that every step reads the same pages: those that were not touched
// for long are in no cache, and the first touch of a page is dear in a virtual machine (5 to 7 us in Firecracker).
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
  // Slots that are taken one after the other, and where the host's memory has what was in them, in one piece.
  struct Stretch {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
    std::uint64_t at = 0;

    std::uint64_t size() const { return end - first; }
  };
  // What the host knows of a slot.
  struct Header {
    std::uint64_t elements;
    std::uint64_t whole;
    std::int32_t site;
    std::int32_t step;
    std::uint32_t flags;
    bool is_void;  // its launch failed
  };
  // The rows of a step, and the histograms that some of them have.
  struct Part {
    Stretch rows;
    Stretch bins;
    int launching = 0;  // calls that have their slots, and are not launched yet
    bool ended = false;
    Handle copied = nullptr;  // once the copy is under way
    std::vector<Stream> streams;
  };

  void allocate();
  void release();
  void require(int error, const char* what);
  Target reserve(Stream stream, const Tensor* tensors, std::size_t count, const Call& call);
  void settle(std::uint64_t first, std::size_t count, int error);
  void copy_ended_parts();
  bool copy(Part& part);
  bool join(const Part& part);
  bool find_room(Part& part, Stretch Part::*kind) const;
  int copy_out(const Stretch& slots, Pointer from, void* to, std::size_t bytes);
  int copy_slots(Pointer from, void* to, std::size_t bytes);
  bool is_captured(Stream stream) const;
  void read(const Part& part, Taken& taken);
  void fail(int error, std::size_t count);

  const Kernels& kernels_;
  const Driver& driver_;
  const std::uint64_t capacity_;
  const bool has_histograms_;
  Target target_;  // without where it begins
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
  std::uint64_t next_bins_ = 0;  // never as many in use as rows
  std::uint64_t freed_ = 0;
  Skipped skipped_;
};

}  // namespace tetrace::fp8
