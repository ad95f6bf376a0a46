// From CUPTI's records to rows: values in, values out, nothing kept.
#pragma once

#include <cstdint>
#include <vector>

#include "collector/layouts.h"
#include "collector/rows.h"

namespace tetrace::collector {

KernelRow kernel_row(const cupti::KernelRecord& record, std::uint32_t name);
MemcpyRow memcpy_row(const cupti::MemcpyRecord& record);
MemcpyRow memcpy_row(const cupti::MemcpyPeerRecord& record);
MemsetRow memset_row(const cupti::MemsetRecord& record);
CallRow call_row(const cupti::CallRecord& record);
SyncRow sync_row(const cupti::SyncRecord& record);
OverheadRow overhead_row(const cupti::OverheadRecord& record);
DeviceRow device_row(const cupti::DeviceRecord& record, std::uint32_t name);

// Rows on their way to the file.
struct Rows {
  std::vector<KernelRow> kernels;
  std::vector<MemcpyRow> memcpys;
  std::vector<MemsetRow> memsets;
  std::vector<CallRow> calls;
  std::vector<SyncRow> syncs;
  std::vector<OverheadRow> overheads;
  std::vector<DeviceRow> devices;
  std::vector<CallNameRow> call_names;
  std::uint64_t incomplete = 0;  // records of what had not ended when they were asked for

  // Calls f(vector) for each kind.
  template <class Function>
  void each(Function f) {
    f(devices), f(call_names), f(calls), f(kernels), f(memcpys), f(memsets), f(syncs), f(overheads);
  }
};

// What decoding asks about.
class Names {
 public:
  virtual ~Names() = default;
  virtual std::uint32_t text(const char* name) = 0;
  // Whether calls of this number are recorded; the first time, it may add a row to `call_names`.
  virtual bool is_recorded(std::uint16_t domain, std::uint32_t call, Rows& rows) = 0;
};

// Adds the row of one record; records of other kinds add none.
void decode(const std::uint8_t* record, Names& names, Rows& rows);

}  // namespace tetrace::collector
