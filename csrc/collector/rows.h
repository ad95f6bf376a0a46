// What the file cupti.bin holds: a header, then frames of rows of one kind each. tetrace/sources/cupti_rows.py mirrors it.
//
// Little endian. Times are nanoseconds of CLOCK_REALTIME. Numbers that name a text are ids of `text` frames, which come
// before the rows that use them; `no_text` where there is none.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tetrace::collector {

constexpr char file_magic[8] = {'T', 'E', 'T', 'R', 'C', 'U', 'P', '\0'};
constexpr std::uint32_t file_version = 1;
constexpr std::uint32_t frame_magic = 0x4D415246;  // "FRAM"
constexpr std::uint32_t no_text = 0xffffffff;
// Set in the ids of the texts of NVTX ranges, "DOMAIN\x1fTEXT".
constexpr std::uint32_t nvtx_text = 0x80000000;

struct FileHeader {
  char magic[8];
  std::uint32_t version;
  std::uint32_t cupti;  // what cuptiGetVersion says, 130000 for 13.0; 0 while only NVTX is recorded
  std::int64_t process;
  std::int64_t reserved;
};
static_assert(sizeof(FileHeader) == 32);

// Then `payload_bytes`, then zeros up to a multiple of 8. A frame is written by one write: a killed process leaves whole
// frames and at most one torn one, the last.
struct FrameHeader {
  std::uint32_t magic;
  std::uint16_t kind;
  std::uint16_t row_bytes;  // 0: rows have no fixed size
  std::uint32_t rows;
  std::uint32_t payload_bytes;
};
static_assert(sizeof(FrameHeader) == 16);

enum class Kind : std::uint16_t {
  text = 1,  // id (u32), length (u32), bytes, zeros up to a multiple of 4; repeated
  kernel = 2,
  memcpy = 3,
  memset = 4,
  call = 5,
  sync = 6,
  overhead = 7,
  node = 8,
  device = 9,
  event = 10,
  call_name = 11,
};

struct KernelRow {
  static constexpr Kind kind = Kind::kernel;
  std::int64_t start, end;
  std::uint64_t graph_node;  // 0: no graph launched it
  std::uint32_t correlation, stream, device, context;
  std::uint32_t name;  // text id of the mangled name
  std::uint32_t graph;
  std::uint32_t grid[3];
  std::uint16_t block[3];
  std::uint16_t registers;  // per thread
  std::uint32_t static_shared, dynamic_shared;  // bytes
  std::uint32_t unused;
};
static_assert(sizeof(KernelRow) == 80);

struct MemcpyRow {
  static constexpr Kind kind = Kind::memcpy;
  std::int64_t start, end;
  std::uint64_t bytes, graph_node;
  std::uint32_t correlation, stream, device, context;
  std::uint8_t copy_kind, source_kind, destination_kind, flags;  // as CUPTI numbers them
  std::uint32_t graph;
};
static_assert(sizeof(MemcpyRow) == 56);

struct MemsetRow {
  static constexpr Kind kind = Kind::memset;
  std::int64_t start, end;
  std::uint64_t bytes, graph_node;
  std::uint32_t correlation, stream, device, context;
  std::uint32_t value, graph;
};
static_assert(sizeof(MemsetRow) == 56);

struct CallRow {
  static constexpr Kind kind = Kind::call;
  std::int64_t start, end;
  std::uint32_t correlation, thread;  // thread: as gettid counts
  std::uint16_t domain;  // 0 runtime, 1 driver
  std::uint16_t unused;
  std::uint32_t call;  // CUPTI's cbid, named by a CallNameRow
  std::uint32_t return_value;
  std::uint32_t unused_too;
};
static_assert(sizeof(CallRow) == 40);

struct SyncRow {
  static constexpr Kind kind = Kind::sync;
  std::int64_t start, end;
  std::uint32_t correlation, stream, context, event;  // 0xffffffff: of none
  std::uint32_t type;  // 1 event, 2 a stream waits for an event, 3 stream, 4 context
  std::uint32_t unused;
};
static_assert(sizeof(SyncRow) == 40);

struct OverheadRow {
  static constexpr Kind kind = Kind::overhead;
  std::int64_t start, end;
  std::uint32_t type;  // as CUPTI numbers them: 65536 flush of a buffer, 6 * 65536 command buffer full, ...
  std::uint32_t thread;
};
static_assert(sizeof(OverheadRow) == 24);

// A graph's node, when it was captured, added or cloned: also outside the window, because what is replayed in the window
// was captured before.
struct NodeRow {
  static constexpr Kind kind = Kind::node;
  std::int64_t created;
  std::uint64_t node, original;  // original: the node that it is a clone of, or 0
  std::uint32_t thread, graph;
};
static_assert(sizeof(NodeRow) == 32);

struct DeviceRow {
  static constexpr Kind kind = Kind::device;
  std::uint32_t device, capability_major, capability_minor, multiprocessors;
  std::uint64_t memory_bytes, bandwidth_bytes_per_s;
  std::uint32_t name, unused;
};
static_assert(sizeof(DeviceRow) == 40);

enum class Happened : std::uint32_t {
  nothing = 0,  // the first row of every file: its place is kept for disk_full, since a full disk takes no new row
  recording_on = 1,
  recording_off = 2,
  yielded = 3,
  resumed = 4,
  failed = 5,
  dropped_by_cupti = 6,  // count: records
  dropped_here = 7,      // count: records
  disk_full = 8,         // count: rows that could not be written, whatever the reason; detail says which it was
  flushed_at_end = 9,
  texts_full = 10,  // detail: of what the new ones have no number from now on; count: bytes that are kept
};

struct EventRow {
  static constexpr Kind kind = Kind::event;
  std::int64_t at;
  std::uint32_t what;    // a Happened
  std::uint32_t detail;  // text id or no_text
  std::uint64_t count;
};
static_assert(sizeof(EventRow) == 24);

struct CallNameRow {
  static constexpr Kind kind = Kind::call_name;
  std::uint32_t domain, call, name, unused;
};
static_assert(sizeof(CallNameRow) == 16);

}  // namespace tetrace::collector
