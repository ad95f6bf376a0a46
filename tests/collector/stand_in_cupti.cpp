// Stands in for libcupti where there is no GPU: the functions that the collector calls, records as CUPTI lays them out,
// buffers completed on a thread of its own. "Launches" come from stand_in_launch.
//
// STAND_IN_HOLDER=NAME: somebody of that name has subscribed before. STAND_IN_HELD: the PyTorch profiler has, and set its
// clock; it lends its records to others. STAND_IN_KEPT: it subscribes for good once the collector lets go.
// STAND_IN_VERSION: what cuptiGetVersion says. STAND_IN_SLOW_MS: how long each record takes to be read, as on a slow disk.
// STAND_IN_REFUSES: a kind of record that it does not enable. Compiled with OLD, it has only what CUPTI 12.0 has.
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "collector/layouts.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace tetrace::collector::cupti;

namespace {

using Request = void (*)(std::uint8_t**, std::size_t*, std::size_t*);
using Complete = void (*)(void*, std::uint32_t, std::uint8_t*, std::size_t, std::size_t);
using Callback = void (*)(void*, std::uint32_t, std::uint32_t, const void*);

constexpr std::uint32_t invalid_parameter = 1;
constexpr std::uint32_t limit_reached = 12;
constexpr std::size_t kernel_bytes = 216;  // of 13.0

std::size_t bytes_of(std::uint32_t kind) {
  switch (static_cast<Activity>(kind)) {
    case Activity::memcpy: return 96;
    case Activity::device: return 184;
    case Activity::concurrent_kernel: return kernel_bytes;
    default: return 40;  // calls
  }
}

struct Full {
  std::uint8_t* memory;
  std::size_t used;
};

std::uint64_t read(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return std::uint64_t{1'000'000'000} * time.tv_sec + time.tv_nsec;
}

std::uint64_t wall_clock() { return read(CLOCK_REALTIME); }
// What the PyTorch profiler leaves behind.
std::uint64_t other_clock() { return read(CLOCK_MONOTONIC); }

struct StandIn {
  std::mutex mutex;
  std::condition_variable wake;
  Request request = nullptr;
  Complete complete = nullptr;
  Callback callback = nullptr;
  void* user = nullptr;
  std::atomic<bool> subscribed{std::getenv("STAND_IN_HELD") != nullptr};
  std::set<std::uint32_t> kinds;
  std::set<std::pair<std::uint32_t, std::uint32_t>> calls;
  std::set<std::pair<std::uint32_t, std::uint32_t>> callbacks;
  std::uint8_t* memory = nullptr;
  std::size_t bytes = 0, used = 0;
  std::size_t dropped = 0;
  std::deque<Full> full;
  bool delivers = false;
  std::uint32_t correlation = 0;
  std::atomic<std::uint64_t> nodes{0};
  // The subscriber is the same each time.
  std::pair<Callback, void*> subscription() {
    const std::lock_guard<std::mutex> lock(mutex);
    return {callback, user};
  }
  bool calls_back(const std::pair<std::uint32_t, std::uint32_t>& call) {
    const std::lock_guard<std::mutex> lock(mutex);
    return subscribed && callbacks.count(call) != 0;
  }
  std::atomic<std::uint64_t (*)()> clock{std::getenv("STAND_IN_HELD") != nullptr ? other_clock : wall_clock};
};

StandIn& stand_in() {
  static StandIn& only = *new StandIn;
  return only;
}

std::uint64_t now() { return stand_in().clock.load()(); }

// CUPTI's worker.
void deliver() {
  StandIn& all = stand_in();
  std::unique_lock<std::mutex> lock(all.mutex);
  for (;;) {
    all.wake.wait(lock, [&] { return !all.full.empty(); });
    const Full buffer = all.full.front();
    all.full.pop_front();
    const Complete complete = all.complete;
    lock.unlock();
    complete(nullptr, 0, buffer.memory, 1 << 20, buffer.used);
    lock.lock();
  }
}

// Room for a record, zeroed; null where the collector gave no buffer.
template <class Record>
Record* add(StandIn& all, std::uint32_t kind) {
  const std::size_t bytes = bytes_of(kind);
  if (all.memory != nullptr && all.used + bytes > all.bytes) {
    all.full.push_back({std::exchange(all.memory, nullptr), all.used});
    all.wake.notify_one();
  }
  if (all.memory == nullptr) {
    std::size_t most = 0;
    all.used = 0;
    all.request(&all.memory, &all.bytes, &most);
  }
  if (all.memory == nullptr) return ++all.dropped, nullptr;
  auto* record = reinterpret_cast<Record*>(all.memory + all.used);
  // It was promised to be zero.
  if (record->kind != 0) std::abort();
  all.used += bytes;
  record->kind = kind;
  return record;
}

const char* call_name(std::uint32_t domain, std::uint32_t call) {
  using Names = std::map<std::pair<std::uint32_t, std::uint32_t>, const char*>;
  static const Names& names = *new Names{
      {{2, 1}, "cudaGetDevice_v3020"},      {{2, 211}, "cudaLaunchKernel_v7000"}, {{2, 41}, "cudaMemcpyAsync_v3020"},
      {{2, 131}, "cudaStreamSynchronize_v3020"}, {{1, 207}, "cuLaunchKernel"},        {{1, 5}, "cuCtxGetCurrent"},
      {{1, 2}, "cuDriverGetVersion"},            {{2, 147}, "cudaStreamWaitEvent_v3020"},   {{1, 200}, "cuStreamWaitEvent"},
  };
  const auto found = names.find({domain, call});
  return found == names.end() ? nullptr : found->second;
}

void add_call(StandIn& all, std::uint32_t domain, std::uint32_t call, std::uint64_t start) {
  const std::uint32_t kind = domain == driver_domain ? 4 : 5;
  if (all.kinds.count(kind) == 0 && all.calls.count({domain, call}) == 0) return;
  auto* record = add<CallRecord>(all, kind);
  if (record == nullptr) return;
  record->call = call;
  record->start = start;
  record->end = start + 2000;
  record->thread = static_cast<std::uint32_t>(syscall(SYS_gettid));
  record->correlation = all.correlation;
}

void add_kernel(StandIn& all, const char* name, std::uint64_t start) {
  if (all.kinds.count(10) == 0) return;
  auto* record = add<KernelRecord>(all, 10);
  if (record == nullptr) return;
  record->start = start + 5000;
  record->end = start + 9000;
  record->stream = 7;
  record->context = 1;
  record->grid[0] = 128, record->grid[1] = 2, record->grid[2] = 1;
  record->block[0] = 256, record->block[1] = 1, record->block[2] = 1;
  record->registers = 64;
  record->dynamic_shared = 4096;
  record->correlation = all.correlation;
  record->name = name;
  record->graph_node = all.nodes;
}

}  // namespace

EXPORT void stand_in_launch(std::uint32_t count) {
  static const char* names[] = {"_Z4gemmPfS_S_", "_Z9layernormPfi", "_Z4geluPf"};
  StandIn& all = stand_in();
  for (std::uint32_t done = 0; done < count; ++done) {
    const std::lock_guard<std::mutex> lock(all.mutex);
    ++all.correlation;
    const std::uint64_t start = now();
    add_call(all, runtime_domain, 1, start);
    add_call(all, runtime_domain, 211, start);
    add_kernel(all, names[all.correlation % 3], start);
  }
}

EXPORT void stand_in_copy(std::uint32_t count) {
  StandIn& all = stand_in();
  for (std::uint32_t done = 0; done < count; ++done) {
    const std::lock_guard<std::mutex> lock(all.mutex);
    ++all.correlation;
    const std::uint64_t start = now();
    add_call(all, runtime_domain, 41, start);
    if (all.kinds.count(1) == 0) continue;
    auto* record = add<MemcpyRecord>(all, 1);
    if (record == nullptr) continue;
    record->copy_kind = 1, record->source_kind = 1, record->destination_kind = 3;
    record->bytes = 1 << 20;
    record->start = start + 5000;
    record->end = start + 9000;
    record->stream = 7;
    record->correlation = all.correlation;
  }
}

void add_unfinished_kernel(StandIn& all) {
  add_kernel(all, "_Z5neverv", now());
  if (all.memory != nullptr) reinterpret_cast<KernelRecord*>(all.memory + all.used - kernel_bytes)->end = 0;
}

EXPORT void stand_in_unfinished() {
  StandIn& all = stand_in();
  const std::lock_guard<std::mutex> lock(all.mutex);
  add_unfinished_kernel(all);
}

// Launches that the GPU does not come to: of every second one there is a record without an end, of the others none.
EXPORT void stand_in_queue(std::uint32_t count) {
  StandIn& all = stand_in();
  for (std::uint32_t done = 0; done < count; ++done) {
    const std::lock_guard<std::mutex> lock(all.mutex);
    ++all.correlation;
    add_call(all, runtime_domain, 211, now());
    if (done % 2 == 0) add_unfinished_kernel(all);
  }
}

// The driver, called so; `STAND_IN_DEAF` is a CUPTI that has no record of it.
EXPORT void stand_in_driver_call(std::uint32_t call) {
  StandIn& all = stand_in();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (std::getenv("STAND_IN_DEAF") == nullptr) add_call(all, driver_domain, call, now());
}

// A graph of `count` nodes is captured, then cloned.
EXPORT void stand_in_capture(std::uint32_t count) {
  StandIn& all = stand_in();
  const auto [callback, user] = all.subscription();
  for (std::uint32_t done = 0; done < count; ++done) {
    const std::uint64_t node = ++all.nodes;
    GraphData graph{reinterpret_cast<void*>(3), nullptr, reinterpret_cast<void*>(node), nullptr};
    const ResourceData data{nullptr, nullptr, &graph};
    if (all.subscribed) callback(user, resource_domain, graph_node_created, &data);
    graph.original_node = graph.node;
    graph.node = reinterpret_cast<void*>(++all.nodes);
    if (all.subscribed) callback(user, resource_domain, graph_node_cloned, &data);
  }
}

// Streams from 100 on are of a context that is not current, those from 200 on unknown; to wait is refused from 300 on.
constexpr std::uintptr_t streams_of_others = 100, unknown_streams = 200, refused_streams = 300;

void tell_to_wait(std::uint32_t count, std::uintptr_t stream, bool from_runtime, bool returns) {
  StandIn& all = stand_in();
  const auto [callback, user] = all.subscription();
  const std::pair<std::uint32_t, std::uint32_t> runtime{runtime_domain, 147}, driver{driver_domain, 200};
  void* const context = reinterpret_cast<void*>(3);
  for (std::uint32_t done = 0; done < count; ++done) {
    const StreamWait wait{reinterpret_cast<void*>(stream), nullptr, 0};
    int result = stream < refused_streams ? 0 : 400;  // CUDA_ERROR_INVALID_HANDLE
    const auto tell = [&](const auto& call, std::uint32_t site) {
      const char* name = call == runtime ? "cudaStreamWaitEvent" : "cuStreamWaitEvent";
      const ApiData data{site, name, &wait, &result, nullptr, context, 1, nullptr, done + 1};
      if (all.calls_back(call)) callback(user, call.first, call.second, &data);
    };
    if (from_runtime) tell(runtime, on_enter);
    if (!from_runtime || returns) tell(driver, on_enter);
    if (!from_runtime || returns) tell(driver, 1);
    if (from_runtime && returns) tell(runtime, 1);
    const std::lock_guard<std::mutex> lock(all.mutex);
    auto* record = all.kinds.count(38) == 0 ? nullptr : add<SyncRecord>(all, 38);
    if (record == nullptr) continue;
    record->type = stream_waits;
    record->start = record->end = now();
    record->stream = static_cast<std::uint32_t>(stream);
    record->correlation = done + 1;
  }
}

// Streams are told to wait: the runtime's call, in it the driver's, by callbacks or as records.
EXPORT void stand_in_wait(std::uint32_t count) { tell_to_wait(count, 9, true, true); }

EXPORT void stand_in_wait_of_driver(std::uint32_t count) { tell_to_wait(count, 9, false, true); }

EXPORT void stand_in_wait_on(std::uint32_t stream) { tell_to_wait(1, stream, true, true); }

// The call is not left before what comes next.
EXPORT void stand_in_begin_wait() { tell_to_wait(1, 9, true, false); }

EXPORT Result cuptiGetVersion(std::uint32_t* version) {
  const char* said = std::getenv("STAND_IN_VERSION");
  *version = said == nullptr ? 130000 : static_cast<std::uint32_t>(std::atoi(said));
  return success;
}

EXPORT Result cuptiGetResultString(Result result, const char** text) {
  *text = result == multiple_subscribers ? "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED" : "CUPTI_ERROR_STAND_IN";
  return success;
}

EXPORT Result cuptiGetCallbackName(std::uint32_t domain, std::uint32_t call, const char** name) {
  *name = call_name(domain, call);
  return *name == nullptr ? invalid_parameter : success;
}

EXPORT Result cuptiSubscribe(void** subscriber, Callback callback, void* user) {
  StandIn& all = stand_in();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (std::getenv("STAND_IN_HOLDER") != nullptr || all.subscribed) return multiple_subscribers;
  all.callback = callback;
  all.user = user;
  all.subscribed = true;
  *subscriber = &all;
  return success;
}

// Another tool follows: it has its own clock, and may keep what was let go.
EXPORT Result cuptiUnsubscribe(void*) {
  stand_in().subscribed = std::getenv("STAND_IN_KEPT") != nullptr;
  stand_in().clock = other_clock;
  return success;
}

EXPORT Result cuptiActivityRegisterTimestampCallback(std::uint64_t (*clock)()) {
  stand_in().clock = clock;
  return success;
}

EXPORT Result cuptiEnableCallback(std::uint32_t on, void*, std::uint32_t domain, std::uint32_t call) {
  StandIn& all = stand_in();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (on != 0) {
    all.callbacks.insert({domain, call});
  } else {
    all.callbacks.erase({domain, call});
  }
  return success;
}

EXPORT Result cuptiActivityRegisterCallbacks(Request request, Complete complete) {
  if (std::getenv("STAND_IN_HOLDER") != nullptr) std::abort();  // they are the holder's
  StandIn& all = stand_in();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.request = request;
  all.complete = complete;
  if (!std::exchange(all.delivers, true)) std::thread(deliver).detach();
  return success;
}

EXPORT Result cuptiActivityEnable(std::uint32_t kind) {
  StandIn& all = stand_in();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const char* refused = std::getenv("STAND_IN_REFUSES");
  if (refused != nullptr && kind == static_cast<std::uint32_t>(std::atoi(refused))) return invalid_parameter;
  all.kinds.insert(kind);
  if (kind != 8) return success;
  auto* record = add<DeviceRecord>(all, 8);
  if (record == nullptr) return success;
  record->capability_major = 9;
  record->multiprocessors = 132;
  record->memory_bytes = std::uint64_t{150} << 30;
  record->bandwidth_kilobytes_per_s = 4'800'000'000;
  record->name = "NVIDIA H200";
  return success;
}

EXPORT Result cuptiActivityDisable(std::uint32_t kind) {
  StandIn& all = stand_in();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.kinds.erase(kind);
  return success;
}

EXPORT Result cuptiActivityFlushAll(std::uint32_t) {
  StandIn& all = stand_in();
  std::deque<Full> full;
  Complete complete = nullptr;
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    full.swap(all.full);
    if (all.memory != nullptr) full.push_back({std::exchange(all.memory, nullptr), all.used});
    complete = all.complete;
  }
  for (const Full& buffer : full) complete(nullptr, 0, buffer.memory, 1 << 20, buffer.used);
  return success;
}

EXPORT Result cuptiActivityGetNextRecord(std::uint8_t* buffer, std::size_t used, std::uint8_t** record) {
  std::uint8_t* next = *record == nullptr ? buffer : *record + bytes_of(*reinterpret_cast<std::uint32_t*>(*record));
  if (next >= buffer + used) return limit_reached;
  if (const char* slow = std::getenv("STAND_IN_SLOW_MS")) usleep(1000 * static_cast<unsigned>(std::atoi(slow)));
  *record = next;
  return success;
}

EXPORT Result cuptiActivityGetNumDroppedRecords(void*, std::uint32_t, std::size_t* dropped) {
  StandIn& all = stand_in();
  const std::lock_guard<std::mutex> lock(all.mutex);
  *dropped = std::exchange(all.dropped, 0);
  return success;
}

EXPORT Result cuptiGetGraphNodeId(void* node, std::uint64_t* number) {
  *number = reinterpret_cast<std::uint64_t>(node);
  return success;
}

EXPORT Result cuptiGetGraphId(void*, std::uint32_t* number) {
  *number = 3;
  return success;
}

#if !defined(OLD)

Result choose(std::uint32_t domain, std::uint32_t call, std::uint8_t on) {
  StandIn& all = stand_in();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (on != 0) {
    all.calls.insert({domain, call});
  } else {
    all.calls.erase({domain, call});
  }
  return success;
}

EXPORT Result cuptiGetStreamIdEx(void* context, void* stream, std::uint8_t, std::uint32_t* number) {
  const auto handle = reinterpret_cast<std::uintptr_t>(stream);
  if (handle >= unknown_streams || (handle >= streams_of_others && context != nullptr)) return 20;
  *number = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(stream));
  return success;
}

EXPORT Result cuptiActivityEnableRuntimeApi(std::uint32_t call, std::uint8_t on) { return choose(runtime_domain, call, on); }

EXPORT Result cuptiActivityEnableDriverApi(std::uint32_t call, std::uint8_t on) { return choose(driver_domain, call, on); }

// A buffer for each thread, it says.
EXPORT Result cuptiActivityGetAttribute(std::uint32_t attribute, std::size_t*, void* value) {
  if (attribute != buffers_of_threads) return invalid_parameter;
  *static_cast<std::uint8_t*>(value) = std::getenv("STAND_IN_ONE_BUFFER") == nullptr;
  return success;
}

EXPORT Result cuptiSubscribe_v2(void**, Callback, void*, SubscriberParameters* parameters) {
  const char* holder = std::getenv("STAND_IN_HOLDER");
  if (holder != nullptr) std::strncpy(parameters->holder, holder, parameters->holder_bytes - 1);
  return multiple_subscribers;
}

#endif
