// CUPTI's records, callback data and numbers, as far as this library uses them.
//
// A record type grows at its end with new versions (CUpti_ActivityKernel9 of CUPTI 12.0 has 208 bytes, ...Kernel13 of 13.5
// has 248); what is declared here is the part that has stayed where it is from 12.0 to 13.5. layouts_check.cpp compares it
// with the headers that the build finds, tests/collector/test_layouts.py with those of other versions. Being our own,
// these need no CUPTI to build, and functions that only newer versions have can be called where they are.
#pragma once

#include <cstdint>

namespace tetrace::collector::cupti {

using Result = std::uint32_t;
constexpr Result success = 0;
constexpr Result multiple_subscribers = 39;
constexpr Result insufficient_privileges = 35;
constexpr Result virtual_device_privileges = 40;

// cuptiGetVersion counted 18 for CUDA 12.0 and 12.1 up to 28 for 12.9, and has counted 130000 and on since 13.0.
constexpr std::uint32_t oldest_version = 18;

enum class Activity : std::uint32_t {
  memcpy = 1,
  memset = 2,
  driver = 4,
  runtime = 5,
  device = 8,
  concurrent_kernel = 10,
  overhead = 17,
  memcpy_peer = 22,
  synchronization = 38,
};

constexpr std::uint32_t thread_object = 2;
constexpr std::uint32_t flush_forced = 1;
constexpr std::uint32_t zeroed_out_buffers = 5;  // attributes
constexpr std::uint32_t buffers_of_threads = 9;
constexpr std::uint32_t system_thread_ids = 1;

constexpr std::uint32_t driver_domain = 1;
constexpr std::uint32_t runtime_domain = 2;
constexpr std::uint32_t resource_domain = 3;
constexpr std::uint32_t graph_node_created = 13;
constexpr std::uint32_t graph_node_cloned = 20;

struct KernelRecord {
  std::uint32_t kind;
  std::uint16_t cache;
  std::uint16_t registers;
  std::uint64_t partitioned_cache;
  std::uint64_t start, end, completed;
  std::uint32_t device, context, stream;
  std::uint32_t grid[3];
  std::uint32_t block[3];
  std::uint32_t static_shared, dynamic_shared;
  std::uint32_t local_per_thread, local_total;
  std::uint32_t correlation;
  std::uint64_t grid_id;
  const char* name;
  std::uint64_t reserved;
  std::uint64_t queued, submitted;
  std::uint8_t launch[8];
  std::uint64_t graph_node;
  std::uint32_t shared_limit;
  std::uint32_t graph;
};

struct MemcpyRecord {
  std::uint32_t kind;
  std::uint8_t copy_kind, source_kind, destination_kind, flags;
  std::uint64_t bytes;
  std::uint64_t start, end;
  std::uint32_t device, context, stream;
  std::uint32_t correlation;
  std::uint64_t runtime_correlation, reserved;
  std::uint64_t graph_node;
  std::uint32_t graph;
};

struct MemcpyPeerRecord {
  std::uint32_t kind;
  std::uint8_t copy_kind, source_kind, destination_kind, flags;
  std::uint64_t bytes;
  std::uint64_t start, end;
  std::uint32_t device, context, stream;
  std::uint32_t source_device, source_context, destination_device, destination_context;
  std::uint32_t correlation;
  std::uint64_t reserved;
  std::uint64_t graph_node;
  std::uint32_t graph;
};

struct MemsetRecord {
  std::uint32_t kind;
  std::uint32_t value;
  std::uint64_t bytes;
  std::uint64_t start, end;
  std::uint32_t device, context, stream;
  std::uint32_t correlation;
  std::uint64_t flags, reserved;
  std::uint64_t graph_node;
  std::uint32_t graph;
};

struct CallRecord {
  std::uint32_t kind;
  std::uint32_t call;
  std::uint64_t start, end;
  std::uint32_t process, thread;
  std::uint32_t correlation;
  std::uint32_t return_value;
};

struct SyncRecord {
  std::uint32_t kind;
  std::uint32_t type;
  std::uint64_t start, end;
  std::uint32_t correlation;
  std::uint32_t context, stream, event;
};

struct OverheadRecord {
  std::uint32_t kind;
  std::uint32_t type;
  std::uint32_t object_kind;
  std::uint32_t object_process, object_thread;  // where object_kind is a thread
  std::uint32_t object_rest;
  std::uint64_t start, end;
};

struct DeviceRecord {
  std::uint32_t kind;
  std::uint32_t flags;
  std::uint64_t bandwidth_kilobytes_per_s;
  std::uint64_t memory_bytes;
  std::uint32_t constant_memory, cache, threads_per_warp, clock_kilohertz, copy_engines;
  std::uint32_t multiprocessors;
  std::uint32_t limits[14];
  std::uint32_t capability_major, capability_minor;
  std::uint32_t device;
  std::uint32_t ecc;
  std::uint8_t uuid[16];
  const char* name;
};

// Data of a callback of the domain of resources.
struct ResourceData {
  void* context;
  void* handle;
  const void* descriptor;  // a GraphData
};

struct GraphData {
  void* graph;
  void* original_graph;
  void* node;
  void* original_node;
};

// Of a callback for a call of the driver or the runtime.
constexpr std::uint32_t on_enter = 0;

struct ApiData {
  std::uint32_t site;  // on_enter, else on its return
  const char* name;    // ends in _ptsz where stream 0 is the thread's own
  const void* parameters;
  void* return_value;
  const char* symbol;
  void* context;
  std::uint32_t context_number;
  std::uint64_t* own;
  std::uint32_t correlation;
};

// Parameters of cuStreamWaitEvent and of cudaStreamWaitEvent.
struct StreamWait {
  void* stream;
  void* event;
  unsigned int flags;
};

// CU_STREAM_LEGACY is 1 and CU_STREAM_PER_THREAD 2; 0 is either.
constexpr std::uintptr_t stream_of_thread = 2;
constexpr std::uintptr_t last_default_stream = stream_of_thread;

constexpr std::uint32_t stream_waits = 2;  // SyncRecord::type
constexpr std::uint32_t no_event = 0xffffffff;

// What cuptiSubscribe_v2 takes, as it was in 13.0; its size says that the fields added later are not there.
struct SubscriberParameters {
  std::uint64_t bytes;
  const char* name;
  char* holder;  // where the name of who holds CUPTI goes
  std::uint64_t holder_bytes;
};

}  // namespace tetrace::collector::cupti
