// The file of one thread's ranges, memory-mapped, so that a killed process leaves what it wrote.
//
// A page of header, then rows of a fixed size. A row is written when its range opens, with end 0, and its end when the
// range closes. The file grows in chunks up to a limit, of its own or of the process (ulimit -f) or of the disk; then new
// rows take the place of the oldest. Only what is being written counts as the process's memory: older chunks are the page
// cache's. Where another thread makes the file grow, rows for which it is too slow are dropped and counted.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "ranges/clock.h"

namespace tetrace::ranges {

constexpr char ring_magic[8] = {'T', 'E', 'T', 'R', 'I', 'N', 'G', '\0'};
constexpr std::uint32_t ring_version = 1;
constexpr std::size_t header_bytes = 4096;
constexpr std::uint32_t most_anchors = 240;

struct Row {
  std::uint64_t start;  // ticks; 0: no row here
  std::uint64_t end;    // ticks; 0: still open
  std::int64_t value;   // sequence number of the autograd node that a backward range is for, or -1
  std::int32_t site;
  std::int32_t step;
  std::int32_t depth;  // ranges open around it on its thread; -1 for a start/end range
  std::int32_t unused;
};
static_assert(sizeof(Row) == 40);

struct Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t row_bytes;
  std::int64_t process;
  std::int64_t thread;
  char name[32];  // the thread's, as the kernel knows it
  double ticks_per_second;
  std::uint64_t written;  // rows ever written
  std::uint64_t dropped;  // rows overwritten by newer ones, or never written because the file grew too slowly
  std::uint64_t room;     // rows that fit, as the file is now
  Anchor closing;         // written by whoever closes the ring; ns 0: it was not closed
  std::uint32_t anchors;
  std::uint32_t unused;
  Anchor anchor[most_anchors];
};
static_assert(sizeof(Header) <= header_bytes);

// Where a row is: its number of all rows written, and its slot in the file.
constexpr std::uint64_t no_slot = ~std::uint64_t{0};  // it is in none: the row was dropped
struct Place {
  std::uint64_t number;
  std::uint64_t slot;
};

// Written by its own thread only, but for `close` and `extend_ahead`.
class Ring {
 public:
  // Has another thread call `extend_ahead` soon; false where there is none that does.
  using Ask = bool (*)();

  // Makes FOLDER/PREFIX-THREAD.bin; with -1, -2 and so on where a file of that name is there already, since
  // the kernel gives a thread's number to another one later. Null when the file cannot be made. Where the process may
  // not map that much (ulimit -v), the limit is lower. Without `ask` the file grows on the ring's own thread.
  static std::unique_ptr<Ring> create(const std::string& folder, std::size_t limit_bytes, double ticks_per_second,
                                      const char* prefix = "ranges", Ask ask = nullptr);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  Place append(const Row& row) {
    if (row.start >= next_anchor_) note_anchor();
    if (slot_ == stop_ && !turn()) return {written_, no_slot};
    const Place place{written_, slot_++};
    Row& here = rows_[place.slot];
    // The process may be killed between any two stores: a row counts once its start is there.
    here.start = 0;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    here.end = row.end;
    here.value = row.value;
    here.site = row.site;
    here.step = row.step;
    here.depth = row.depth;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    here.start = row.start;
    __atomic_store_n(&header_->written, ++written_, __ATOMIC_RELAXED);  // `close` reads it on another thread
    if (written_ > room_) ++header_->dropped;
    return place;
  }

  void end_row(Place place, const Row& row) {
    if (place.slot != no_slot && written_ - place.number <= room_) {
      rows_[place.slot].end = row.end;
    } else {
      append(row);  // overwritten meanwhile, or dropped: written once more, whole
      --header_->dropped;
    }
  }

  // The last anchor, and the file cut behind its last row. Where its own thread may still be writing a row, `by_owner`
  // is false and some room is left, because a write behind the end of a mapped file kills the process.
  void close(bool by_owner);

  // Makes the file grow where its thread has asked for that. On another thread, one at a time: the disk may be slow.
  void extend_ahead();

  // What the thread is called, instead of what the kernel says.
  void rename(std::string_view name);

  const std::string& path() const { return path_; }

 private:
  Ring(std::string path, std::size_t limit_bytes, Ask ask);
  bool map();
  void fill_header(double ticks_per_second);
  bool grow();
  bool take_room();
  bool find_room();
  void ask_ahead();
  bool turn();
  void release();
  void note_anchor();

  std::string path_;
  std::size_t limit_bytes_;
  Ask ask_;
  Header* header_ = nullptr;
  Row* rows_ = nullptr;
  std::uint64_t written_ = 0;
  std::uint64_t slot_ = 0;
  std::uint64_t room_ = 0;
  std::uint64_t stop_ = 0;  // end of the slots that are mapped ahead
  std::uint64_t next_anchor_ = 0;
  std::uint64_t anchor_interval_ = 0;
  // Of several threads.
  std::atomic<std::size_t> file_bytes_{header_bytes};
  std::atomic<bool> wants_more_{false};
  std::atomic<bool> is_full_{false};     // the file grows no more
  std::atomic<std::size_t> cut_at_{0};   // where `close` cut the file; 0: it is open
};

// Writes the end of a row from a thread that does not own the ring, through the file. False when it is not there any
// more.
bool end_row_in_file(const std::string& path, Place place, std::uint64_t end);

std::int64_t thread_number();

}  // namespace tetrace::ranges
