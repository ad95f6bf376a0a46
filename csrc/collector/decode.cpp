#include "collector/decode.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace tetrace::collector {
namespace {

std::int64_t ns(std::uint64_t time) { return static_cast<std::int64_t>(time); }

// Blocks have at most 1024 threads in a direction, threads at most 255 registers.
std::uint16_t narrow(std::uint32_t number) {
  return static_cast<std::uint16_t>(std::min<std::uint32_t>(number, std::numeric_limits<std::uint16_t>::max()));
}

template <class Record>
Record read(const std::uint8_t* bytes) {
  Record record;
  std::memcpy(&record, bytes, sizeof record);
  return record;
}

// Times are 0 while the activity goes on, and where CUPTI could not take them.
template <class Row>
void add(std::vector<Row>& rows, const Row& row, Rows& all) {
  if (row.end == 0 || row.end < row.start) {
    ++all.incomplete;
  } else {
    rows.push_back(row);
  }
}

template <class Record>
MemcpyRow copy_row(const Record& record) {
  MemcpyRow row{};
  row.start = ns(record.start);
  row.end = ns(record.end);
  row.bytes = record.bytes;
  row.graph_node = record.graph_node;
  row.correlation = record.correlation;
  row.stream = record.stream;
  row.device = record.device;
  row.context = record.context;
  row.copy_kind = record.copy_kind;
  row.source_kind = record.source_kind;
  row.destination_kind = record.destination_kind;
  row.flags = record.flags;
  row.graph = record.graph;
  return row;
}

}  // namespace

KernelRow kernel_row(const cupti::KernelRecord& record, std::uint32_t name) {
  KernelRow row{};
  row.start = ns(record.start);
  row.end = ns(record.end);
  row.graph_node = record.graph_node;
  row.correlation = record.correlation;
  row.stream = record.stream;
  row.device = record.device;
  row.context = record.context;
  row.name = name;
  row.graph = record.graph;
  std::copy(std::begin(record.grid), std::end(record.grid), row.grid);
  std::transform(std::begin(record.block), std::end(record.block), row.block, narrow);
  row.registers = record.registers;
  row.static_shared = record.static_shared;
  row.dynamic_shared = record.dynamic_shared;
  return row;
}

MemcpyRow memcpy_row(const cupti::MemcpyRecord& record) { return copy_row(record); }

MemcpyRow memcpy_row(const cupti::MemcpyPeerRecord& record) { return copy_row(record); }

MemsetRow memset_row(const cupti::MemsetRecord& record) {
  MemsetRow row{};
  row.start = ns(record.start);
  row.end = ns(record.end);
  row.bytes = record.bytes;
  row.graph_node = record.graph_node;
  row.correlation = record.correlation;
  row.stream = record.stream;
  row.device = record.device;
  row.context = record.context;
  row.value = record.value;
  row.graph = record.graph;
  return row;
}

CallRow call_row(const cupti::CallRecord& record) {
  CallRow row{};
  row.start = ns(record.start);
  row.end = ns(record.end);
  row.correlation = record.correlation;
  row.thread = record.thread;
  row.domain = record.kind == static_cast<std::uint32_t>(cupti::Activity::driver) ? 1 : 0;
  row.call = record.call;
  row.return_value = record.return_value;
  return row;
}

SyncRow sync_row(const cupti::SyncRecord& record) {
  SyncRow row{};
  row.start = ns(record.start);
  row.end = ns(record.end);
  row.correlation = record.correlation;
  row.stream = record.stream;
  row.context = record.context;
  row.event = record.event;
  row.type = record.type;
  return row;
}

OverheadRow overhead_row(const cupti::OverheadRecord& record) {
  OverheadRow row{};
  row.start = ns(record.start);
  row.end = ns(record.end);
  row.type = record.type;
  row.thread = record.object_kind == cupti::thread_object ? record.object_thread : 0;
  return row;
}

DeviceRow device_row(const cupti::DeviceRecord& record, std::uint32_t name) {
  DeviceRow row{};
  row.device = record.device;
  row.capability_major = record.capability_major;
  row.capability_minor = record.capability_minor;
  row.multiprocessors = record.multiprocessors;
  row.memory_bytes = record.memory_bytes;
  row.bandwidth_bytes_per_s = record.bandwidth_kilobytes_per_s * 1000;
  row.name = name;
  return row;
}

void decode(const std::uint8_t* bytes, Names& names, Rows& rows) {
  switch (static_cast<cupti::Activity>(read<std::uint32_t>(bytes))) {
    case cupti::Activity::concurrent_kernel: {
      const auto record = read<cupti::KernelRecord>(bytes);
      return add(rows.kernels, kernel_row(record, names.text(record.name)), rows);
    }
    case cupti::Activity::memcpy:
      return add(rows.memcpys, memcpy_row(read<cupti::MemcpyRecord>(bytes)), rows);
    case cupti::Activity::memcpy_peer:
      return add(rows.memcpys, memcpy_row(read<cupti::MemcpyPeerRecord>(bytes)), rows);
    case cupti::Activity::memset:
      return add(rows.memsets, memset_row(read<cupti::MemsetRecord>(bytes)), rows);
    case cupti::Activity::runtime:
    case cupti::Activity::driver: {
      const CallRow row = call_row(read<cupti::CallRecord>(bytes));
      if (names.is_recorded(row.domain, row.call, rows)) add(rows.calls, row, rows);
      return;
    }
    case cupti::Activity::synchronization:
      return add(rows.syncs, sync_row(read<cupti::SyncRecord>(bytes)), rows);
    case cupti::Activity::overhead:
      return add(rows.overheads, overhead_row(read<cupti::OverheadRecord>(bytes)), rows);
    case cupti::Activity::device: {
      const auto record = read<cupti::DeviceRecord>(bytes);
      rows.devices.push_back(device_row(record, names.text(record.name)));
      return;
    }
  }
}

}  // namespace tetrace::collector
