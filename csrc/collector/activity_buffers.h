// The memory that CUPTI fills with records: given out to it, taken back full, cleared, given out again.
//
// CUPTI asks for it on the script's own threads, so pages are there and zero before they are asked for. There is a limit:
// beyond it CUPTI gets none, drops records and counts them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

namespace tetrace::collector {

struct FullBuffer {
  std::uint8_t* memory = nullptr;
  std::size_t used = 0;
};

// Its lock is a leaf: nothing is called while it is held. CUPTI's callbacks take it.
class ActivityBuffers {
 public:
  // A thread that calls CUDA holds a buffer while there are records in it.
  static constexpr std::size_t buffer_bytes = std::size_t{1} << 20;
  static constexpr std::size_t most = 96;
  static constexpr std::size_t ready = 8;  // free ones to keep

  // Null when all are in use, or there is no memory.
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
  // What is with CUPTI is not expected back: another tool took it over. Others take its place, however often that happens;
  // what CUPTI never gives back is lost, a megabyte each.
  void write_off();

 private:
  std::atomic<std::uint64_t> calls_{0};
  std::mutex mutex_;
  // A buffer goes from list to list: only a new one needs memory.
  std::list<FullBuffer> lent_;
  std::list<FullBuffer> written_off_;  // lent, and not in use
  std::list<FullBuffer> free_;
  std::list<FullBuffer> full_;
  std::list<FullBuffer> decoding_;

  static bool move(std::list<FullBuffer>& from, std::list<FullBuffer>& to, std::uint8_t* memory);
  std::size_t in_use() const { return lent_.size() + full_.size() + decoding_.size(); }
};

}  // namespace tetrace::collector
