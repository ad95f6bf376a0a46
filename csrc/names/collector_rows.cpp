#include "names/collector_rows.h"

#include <cstddef>
#include <string>
#include <type_traits>

#include "collector/rows.h"

namespace py = pybind11;

namespace tetrace::names {
namespace {

using namespace collector;

template <class T>
std::string format() {
  if constexpr (std::is_array_v<T>) {
    return "(" + std::to_string(std::extent_v<T>) + ",)" + format<std::remove_extent_t<T>>();
  } else if constexpr (std::is_same_v<T, char>) {
    return "S1";
  } else {
    return (std::is_signed_v<T> ? "<i" : "<u") + std::to_string(sizeof(T));
  }
}

struct Field {
  const char* name;
  std::size_t offset;
  std::string format;
};

#define FIELD(row, name) Field{#name, offsetof(row, name), format<decltype(row::name)>()}

template <class Row>
py::tuple layout(std::initializer_list<Field> fields, int kind) {
  py::list listed;
  for (const Field& field : fields) listed.append(py::make_tuple(field.name, field.offset, field.format));
  return py::make_tuple(kind, sizeof(Row), listed);
}

template <class Row>
py::tuple layout(std::initializer_list<Field> fields) {
  return layout<Row>(fields, static_cast<int>(Row::kind));
}

py::dict headers() {
  py::dict rows;
  rows["file"] = layout<FileHeader>({FIELD(FileHeader, magic), FIELD(FileHeader, version), FIELD(FileHeader, cupti),
                                     FIELD(FileHeader, process), FIELD(FileHeader, reserved)},
                                    0);
  rows["frame"] = layout<FrameHeader>({FIELD(FrameHeader, magic), FIELD(FrameHeader, kind),
                                       FIELD(FrameHeader, row_bytes), FIELD(FrameHeader, rows),
                                       FIELD(FrameHeader, payload_bytes)},
                                      0);
  return rows;
}

void add_activities(py::dict& rows) {
  rows["kernel"] = layout<KernelRow>(
      {FIELD(KernelRow, start), FIELD(KernelRow, end), FIELD(KernelRow, graph_node), FIELD(KernelRow, correlation),
       FIELD(KernelRow, stream), FIELD(KernelRow, device), FIELD(KernelRow, context), FIELD(KernelRow, name),
       FIELD(KernelRow, graph), FIELD(KernelRow, grid), FIELD(KernelRow, block), FIELD(KernelRow, registers),
       FIELD(KernelRow, static_shared), FIELD(KernelRow, dynamic_shared), FIELD(KernelRow, unused)});
  rows["memcpy"] = layout<MemcpyRow>(
      {FIELD(MemcpyRow, start), FIELD(MemcpyRow, end), FIELD(MemcpyRow, bytes), FIELD(MemcpyRow, graph_node),
       FIELD(MemcpyRow, correlation), FIELD(MemcpyRow, stream), FIELD(MemcpyRow, device), FIELD(MemcpyRow, context),
       FIELD(MemcpyRow, copy_kind), FIELD(MemcpyRow, source_kind), FIELD(MemcpyRow, destination_kind),
       FIELD(MemcpyRow, flags), FIELD(MemcpyRow, graph)});
  rows["memset"] = layout<MemsetRow>(
      {FIELD(MemsetRow, start), FIELD(MemsetRow, end), FIELD(MemsetRow, bytes), FIELD(MemsetRow, graph_node),
       FIELD(MemsetRow, correlation), FIELD(MemsetRow, stream), FIELD(MemsetRow, device), FIELD(MemsetRow, context),
       FIELD(MemsetRow, value), FIELD(MemsetRow, graph)});
}

void add_host(py::dict& rows) {
  rows["call"] = layout<CallRow>({FIELD(CallRow, start), FIELD(CallRow, end), FIELD(CallRow, correlation),
                                  FIELD(CallRow, thread), FIELD(CallRow, domain), FIELD(CallRow, unused),
                                  FIELD(CallRow, call), FIELD(CallRow, return_value), FIELD(CallRow, unused_too)});
  rows["sync"] = layout<SyncRow>({FIELD(SyncRow, start), FIELD(SyncRow, end), FIELD(SyncRow, correlation),
                                  FIELD(SyncRow, stream), FIELD(SyncRow, context), FIELD(SyncRow, event),
                                  FIELD(SyncRow, type), FIELD(SyncRow, unused)});
  rows["overhead"] = layout<OverheadRow>({FIELD(OverheadRow, start), FIELD(OverheadRow, end),
                                          FIELD(OverheadRow, type), FIELD(OverheadRow, thread)});
  rows["node"] = layout<NodeRow>({FIELD(NodeRow, created), FIELD(NodeRow, node), FIELD(NodeRow, original),
                                  FIELD(NodeRow, thread), FIELD(NodeRow, graph)});
}

void add_facts(py::dict& rows) {
  rows["device"] = layout<DeviceRow>(
      {FIELD(DeviceRow, device), FIELD(DeviceRow, capability_major), FIELD(DeviceRow, capability_minor),
       FIELD(DeviceRow, multiprocessors), FIELD(DeviceRow, memory_bytes), FIELD(DeviceRow, bandwidth_bytes_per_s),
       FIELD(DeviceRow, name), FIELD(DeviceRow, unused)});
  rows["event"] = layout<EventRow>({FIELD(EventRow, at), FIELD(EventRow, what), FIELD(EventRow, detail),
                                    FIELD(EventRow, count)});
  rows["call_name"] = layout<CallNameRow>({FIELD(CallNameRow, domain), FIELD(CallNameRow, call),
                                           FIELD(CallNameRow, name), FIELD(CallNameRow, unused)});
}

#undef FIELD

}  // namespace

py::dict collector_rows() {
  py::dict rows = headers();
  add_activities(rows);
  add_host(rows);
  add_facts(rows);
  return rows;
}

}  // namespace tetrace::names
