// The memory that CUPTI fills with records: given out to it, taken back full, cleared, given out again.
//
// CUPTI asks for it on the script's own threads, so pages are there and zero before they are asked for. There is a limit:
// beyond it CUPTI gets none, drops records and counts them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_set>
#include <vector>

namespace tetrace::collector {

struct FullBuffer {
  std::uint8_t* memory;
  std::size_t used;
};

// Its lock is a leaf: nothing is called while it is held. CUPTI's callbacks take it.
class ActivityBuffers {
 public:
  // A thread that calls CUDA holds a buffer while there are records in it.
  static constexpr std::size_t buffer_bytes = std::size_t{1} << 20;
  static constexpr std::size_t most = 96;
  static constexpr std::size_t ready = 8;  // free ones to keep

  // Null when all are in use.
  std::uint8_t* take();
  // From CUPTI; true when somebody should decode it. Memory that is not ours (an other tool's, from before) is left alone.
  bool fill(std::uint8_t* memory, std::size_t used);
  std::vector<FullBuffer> full();
  // How often CUPTI has asked for memory or handed some over.
  std::uint64_t calls() const { return calls_.load(std::memory_order_relaxed); }
  // Decoded: cleared and free.
  void give_back(std::uint8_t* memory);
  // Makes free ones, and unmaps those that a burst left behind. For the writer.
  void prepare();
  // What is with CUPTI is not expected back: another tool took it over. Others take its place, as long as they last.
  void write_off();

 private:
  std::atomic<std::uint64_t> calls_{0};
  std::mutex mutex_;
  std::unordered_set<std::uint8_t*> lent_;
  std::unordered_set<std::uint8_t*> written_off_;
  std::vector<std::uint8_t*> free_;
  std::vector<FullBuffer> full_;
  std::size_t decoding_ = 0;

  std::size_t in_use() const { return lent_.size() + full_.size() + decoding_; }
};

}  // namespace tetrace::collector
