// Compares layouts.h with the headers of CUPTI, where the build finds them: nothing of this is in the library.
#include "collector/layouts.h"

#include <cstddef>
#include <type_traits>

#if __has_include(<cupti_activity.h>) && __has_include(<cuda.h>)
#include <cupti_activity.h>
#include <cupti_callbacks.h>
#include <cupti_version.h>

namespace tetrace::collector::cupti {
namespace {

// The records that cuptiActivityEnable delivers, by version of CUPTI. A version that is not known here yet still has the
// newest ones that are.
#if CUPTI_API_VERSION >= 130400
using Kernel = CUpti_ActivityKernel13;
using Memcpy = CUpti_ActivityMemcpy7;
using Memset = CUpti_ActivityMemset5;
#elif CUPTI_API_VERSION >= 26  // 12.8
#if CUPTI_API_VERSION >= 130300
using Kernel = CUpti_ActivityKernel12;
#elif CUPTI_API_VERSION >= 130100
using Kernel = CUpti_ActivityKernel11;
#elif CUPTI_API_VERSION >= 130000
using Kernel = CUpti_ActivityKernel10;
#else
using Kernel = CUpti_ActivityKernel9;
#endif
using Memcpy = CUpti_ActivityMemcpy6;
using Memset = CUpti_ActivityMemset4;
#else
using Kernel = CUpti_ActivityKernel9;
using Memcpy = CUpti_ActivityMemcpy5;
using Memset = CUpti_ActivityMemset4;
#endif

#if CUPTI_API_VERSION >= 26
using Sync = CUpti_ActivitySynchronization2;
#else
using Sync = CUpti_ActivitySynchronization;
#endif

#if CUPTI_API_VERSION >= 22  // 12.4
using Overhead = CUpti_ActivityOverhead3;
#elif CUPTI_API_VERSION >= 21  // 12.3
using Overhead = CUpti_ActivityOverhead2;
#else
using Overhead = CUpti_ActivityOverhead;
#endif

#if CUPTI_API_VERSION >= 130200
using Device = CUpti_ActivityDevice6;
#elif CUPTI_API_VERSION >= 20  // 12.2
using Device = CUpti_ActivityDevice5;
#else
using Device = CUpti_ActivityDevice4;
#endif

using Call = CUpti_ActivityAPI;
using MemcpyPeer = CUpti_ActivityMemcpyPtoP4;

#define SAME_PLACE(ours, field, theirs, name)                                   \
  static_assert(offsetof(ours, field) == offsetof(theirs, name), #theirs "::" #name); \
  static_assert(sizeof(ours::field) == sizeof(theirs::name), #theirs "::" #name)

SAME_PLACE(KernelRecord, kind, Kernel, kind);
SAME_PLACE(KernelRecord, registers, Kernel, registersPerThread);
SAME_PLACE(KernelRecord, start, Kernel, start);
SAME_PLACE(KernelRecord, end, Kernel, end);
SAME_PLACE(KernelRecord, device, Kernel, deviceId);
SAME_PLACE(KernelRecord, context, Kernel, contextId);
SAME_PLACE(KernelRecord, stream, Kernel, streamId);
SAME_PLACE(KernelRecord, grid[0], Kernel, gridX);
SAME_PLACE(KernelRecord, grid[1], Kernel, gridY);
SAME_PLACE(KernelRecord, grid[2], Kernel, gridZ);
SAME_PLACE(KernelRecord, block[0], Kernel, blockX);
SAME_PLACE(KernelRecord, block[1], Kernel, blockY);
SAME_PLACE(KernelRecord, block[2], Kernel, blockZ);
SAME_PLACE(KernelRecord, static_shared, Kernel, staticSharedMemory);
SAME_PLACE(KernelRecord, dynamic_shared, Kernel, dynamicSharedMemory);
SAME_PLACE(KernelRecord, correlation, Kernel, correlationId);
SAME_PLACE(KernelRecord, name, Kernel, name);
SAME_PLACE(KernelRecord, graph_node, Kernel, graphNodeId);
SAME_PLACE(KernelRecord, graph, Kernel, graphId);

#define SAME_COPY(ours, theirs)                                  \
  SAME_PLACE(ours, kind, theirs, kind);                          \
  SAME_PLACE(ours, copy_kind, theirs, copyKind);                 \
  SAME_PLACE(ours, source_kind, theirs, srcKind);                \
  SAME_PLACE(ours, destination_kind, theirs, dstKind);           \
  SAME_PLACE(ours, flags, theirs, flags);                        \
  SAME_PLACE(ours, bytes, theirs, bytes);                        \
  SAME_PLACE(ours, start, theirs, start);                        \
  SAME_PLACE(ours, end, theirs, end);                            \
  SAME_PLACE(ours, device, theirs, deviceId);                    \
  SAME_PLACE(ours, context, theirs, contextId);                  \
  SAME_PLACE(ours, stream, theirs, streamId);                    \
  SAME_PLACE(ours, correlation, theirs, correlationId);          \
  SAME_PLACE(ours, graph_node, theirs, graphNodeId);             \
  SAME_PLACE(ours, graph, theirs, graphId)

SAME_COPY(MemcpyRecord, Memcpy);
SAME_COPY(MemcpyPeerRecord, MemcpyPeer);

SAME_PLACE(MemsetRecord, kind, Memset, kind);
SAME_PLACE(MemsetRecord, value, Memset, value);
SAME_PLACE(MemsetRecord, bytes, Memset, bytes);
SAME_PLACE(MemsetRecord, start, Memset, start);
SAME_PLACE(MemsetRecord, end, Memset, end);
SAME_PLACE(MemsetRecord, device, Memset, deviceId);
SAME_PLACE(MemsetRecord, context, Memset, contextId);
SAME_PLACE(MemsetRecord, stream, Memset, streamId);
SAME_PLACE(MemsetRecord, correlation, Memset, correlationId);
SAME_PLACE(MemsetRecord, graph_node, Memset, graphNodeId);
SAME_PLACE(MemsetRecord, graph, Memset, graphId);

SAME_PLACE(CallRecord, kind, Call, kind);
SAME_PLACE(CallRecord, call, Call, cbid);
SAME_PLACE(CallRecord, start, Call, start);
SAME_PLACE(CallRecord, end, Call, end);
SAME_PLACE(CallRecord, thread, Call, threadId);
SAME_PLACE(CallRecord, correlation, Call, correlationId);
SAME_PLACE(CallRecord, return_value, Call, returnValue);

SAME_PLACE(SyncRecord, kind, Sync, kind);
SAME_PLACE(SyncRecord, type, Sync, type);
SAME_PLACE(SyncRecord, start, Sync, start);
SAME_PLACE(SyncRecord, end, Sync, end);
SAME_PLACE(SyncRecord, correlation, Sync, correlationId);
SAME_PLACE(SyncRecord, context, Sync, contextId);
SAME_PLACE(SyncRecord, stream, Sync, streamId);
SAME_PLACE(SyncRecord, event, Sync, cudaEventId);

SAME_PLACE(OverheadRecord, kind, Overhead, kind);
SAME_PLACE(OverheadRecord, type, Overhead, overheadKind);
SAME_PLACE(OverheadRecord, object_kind, Overhead, objectKind);
SAME_PLACE(OverheadRecord, object_thread, Overhead, objectId.pt.threadId);
SAME_PLACE(OverheadRecord, start, Overhead, start);
SAME_PLACE(OverheadRecord, end, Overhead, end);

SAME_PLACE(DeviceRecord, kind, Device, kind);
SAME_PLACE(DeviceRecord, bandwidth_kilobytes_per_s, Device, globalMemoryBandwidth);
SAME_PLACE(DeviceRecord, memory_bytes, Device, globalMemorySize);
SAME_PLACE(DeviceRecord, multiprocessors, Device, numMultiprocessors);
SAME_PLACE(DeviceRecord, capability_major, Device, computeCapabilityMajor);
SAME_PLACE(DeviceRecord, capability_minor, Device, computeCapabilityMinor);
SAME_PLACE(DeviceRecord, device, Device, id);
SAME_PLACE(DeviceRecord, name, Device, name);

SAME_PLACE(ResourceData, descriptor, CUpti_ResourceData, resourceDescriptor);
SAME_PLACE(GraphData, graph, CUpti_GraphData, graph);
SAME_PLACE(GraphData, node, CUpti_GraphData, node);
SAME_PLACE(GraphData, original_node, CUpti_GraphData, originalNode);

SAME_PLACE(ApiData, site, CUpti_CallbackData, callbackSite);
SAME_PLACE(ApiData, name, CUpti_CallbackData, functionName);
SAME_PLACE(ApiData, parameters, CUpti_CallbackData, functionParams);
SAME_PLACE(ApiData, return_value, CUpti_CallbackData, functionReturnValue);
SAME_PLACE(ApiData, context, CUpti_CallbackData, context);
SAME_PLACE(ApiData, context_number, CUpti_CallbackData, contextUid);
SAME_PLACE(ApiData, correlation, CUpti_CallbackData, correlationId);
// Its structure of parameters is its parameters; the header with all of these does not compile by itself.
static_assert(std::is_same_v<decltype(&cuStreamWaitEvent), CUresult (*)(CUstream, CUevent, unsigned int)>);
static_assert(std::is_same_v<decltype(&cuStreamIsCapturing), CUresult (*)(CUstream, CUstreamCaptureStatus*)>);
static_assert(sizeof(CUresult) == sizeof(int) && sizeof(CUstreamCaptureStatus) == sizeof(int) && CU_STREAM_CAPTURE_STATUS_NONE == 0);

#if CUPTI_API_VERSION >= 130000
SAME_PLACE(SubscriberParameters, bytes, CUpti_SubscriberParams, structSize);
SAME_PLACE(SubscriberParameters, name, CUpti_SubscriberParams, subscriberName);
SAME_PLACE(SubscriberParameters, holder, CUpti_SubscriberParams, oldSubscriberName);
SAME_PLACE(SubscriberParameters, holder_bytes, CUpti_SubscriberParams, oldSubscriberSize);
#endif

#define SAME_NUMBER(ours, theirs) static_assert(static_cast<std::uint32_t>(ours) == static_cast<std::uint32_t>(theirs), #theirs)

SAME_NUMBER(success, CUPTI_SUCCESS);
SAME_NUMBER(multiple_subscribers, CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED);
SAME_NUMBER(insufficient_privileges, CUPTI_ERROR_INSUFFICIENT_PRIVILEGES);
SAME_NUMBER(virtual_device_privileges, CUPTI_ERROR_VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES);
SAME_NUMBER(Activity::memcpy, CUPTI_ACTIVITY_KIND_MEMCPY);
SAME_NUMBER(Activity::memset, CUPTI_ACTIVITY_KIND_MEMSET);
SAME_NUMBER(Activity::driver, CUPTI_ACTIVITY_KIND_DRIVER);
SAME_NUMBER(Activity::runtime, CUPTI_ACTIVITY_KIND_RUNTIME);
SAME_NUMBER(Activity::device, CUPTI_ACTIVITY_KIND_DEVICE);
SAME_NUMBER(Activity::concurrent_kernel, CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
SAME_NUMBER(Activity::overhead, CUPTI_ACTIVITY_KIND_OVERHEAD);
SAME_NUMBER(Activity::memcpy_peer, CUPTI_ACTIVITY_KIND_MEMCPY2);
SAME_NUMBER(Activity::synchronization, CUPTI_ACTIVITY_KIND_SYNCHRONIZATION);
SAME_NUMBER(thread_object, CUPTI_ACTIVITY_OBJECT_THREAD);
SAME_NUMBER(flush_forced, CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
SAME_NUMBER(zeroed_out_buffers, CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER);
SAME_NUMBER(buffers_of_threads, CUPTI_ACTIVITY_ATTR_PER_THREAD_ACTIVITY_BUFFER);
SAME_NUMBER(system_thread_ids, CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM);
SAME_NUMBER(driver_domain, CUPTI_CB_DOMAIN_DRIVER_API);
SAME_NUMBER(runtime_domain, CUPTI_CB_DOMAIN_RUNTIME_API);
SAME_NUMBER(resource_domain, CUPTI_CB_DOMAIN_RESOURCE);
SAME_NUMBER(on_enter, CUPTI_API_ENTER);
SAME_NUMBER(stream_waits, CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT);
SAME_NUMBER(no_event, CUPTI_SYNCHRONIZATION_INVALID_VALUE);
SAME_NUMBER(graph_node_created, CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED);
SAME_NUMBER(graph_node_cloned, CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED);

}  // namespace
}  // namespace tetrace::collector::cupti

#endif
