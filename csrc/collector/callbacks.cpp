#include "collector/callbacks.h"

#include <dlfcn.h>

#include <atomic>
#include <cstring>

#include "collector/handover.h"
#include "collector/surroundings.h"
#include "collector/window.h"
#include "collector/writer.h"
#include "ranges/ring.h"

namespace tetrace::collector {
namespace {

std::atomic<bool> ended{false};

// On the script's threads or CUPTI's own. No exception may leave. In a forked child a lock may be held by a thread that is
// not there.
void give_buffer(std::uint8_t** buffer, std::size_t* bytes, std::size_t* most_records) noexcept {
  const bool gives = !ended.load(std::memory_order_relaxed) && !is_forked_child.load(std::memory_order_relaxed);
  *buffer = gives ? activity_buffers().take() : nullptr;
  *bytes = *buffer == nullptr ? 0 : ActivityBuffers::buffer_bytes;
  *most_records = 0;  // as many as fit
}

void take_buffer(void*, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t used) noexcept {
  if (is_forked_child.load(std::memory_order_relaxed)) return;
  if (activity_buffers().fill(buffer, used)) wake_writer();
}

std::uint32_t this_thread_number() {
  thread_local const auto number = static_cast<std::uint32_t>(ranges::thread_number());
  return number;
}

std::uint64_t node_number(const CuptiApi& api, void* node) {
  std::uint64_t number = 0;
  if (node != nullptr && api.cuptiGetGraphNodeId != nullptr) api.cuptiGetGraphNodeId(node, &number);
  return number;
}

void on_graph_node(void* user, std::uint32_t callback, const void* data) {
  const bool cloned = callback == cupti::graph_node_cloned;
  if (!cloned && callback != cupti::graph_node_created) return;
  const auto* graph = static_cast<const cupti::GraphData*>(static_cast<const cupti::ResourceData*>(data)->descriptor);
  if (graph == nullptr) return;
  const CuptiApi& api = *static_cast<const CuptiApi*>(user);
  NodeRow row{};
  row.created = now_ns();
  row.node = node_number(api, graph->node);
  row.original = cloned ? node_number(api, graph->original_node) : 0;
  row.thread = this_thread_number();
  if (graph->graph != nullptr && api.cuptiGetGraphId != nullptr) api.cuptiGetGraphId(graph->graph, &row.graph);
  hand_over(row);
}

// The window in which this thread entered a wait of the runtime that it has not left; 0 outside. The runtime's call makes the
// driver's, and the outer one counts. Of the window, because who stops in between keeps the return from coming here.
thread_local std::uint32_t window_of_wait = 0;

using IsCapturing = int (*)(void* stream, int* status);  // cuStreamIsCapturing

// The driver is loaded where CUPTI calls; null where it cannot say.
IsCapturing find_is_capturing() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  return driver == nullptr ? nullptr : reinterpret_cast<IsCapturing>(dlsym(driver, "cuStreamIsCapturing"));
}

bool is_of_thread(const cupti::ApiData& call) { return call.name != nullptr && std::strstr(call.name, "_ptsz") != nullptr; }

// What a captured stream is told becomes an edge of a graph: nothing waits now. A stream may join a capture by this very
// wait, so one asks once it has returned. Asking of the legacy stream may be refused, and ends no capture.
bool is_captured(const cupti::ApiData& call, void* stream) {
  static const IsCapturing is_capturing = find_is_capturing();
  if (stream == nullptr && is_of_thread(call)) stream = reinterpret_cast<void*>(cupti::stream_of_thread);
  int status = 0;
  return is_capturing != nullptr && is_capturing(stream, &status) == 0 && status != 0;
}

// False where CUPTI does not know it. A stream need not be of the context that is current; the handles of default streams,
// which are small numbers, mean those of the current one.
bool find_stream(const CuptiApi& api, const cupti::ApiData& call, void* stream, SyncRow& row) {
  const bool of_thread = is_of_thread(call);
  row.context = call.context_number;
  if (api.cuptiGetStreamIdEx(call.context, stream, of_thread, &row.stream) == cupti::success) return true;
  row.context = 0;
  const bool is_default = reinterpret_cast<std::uintptr_t>(stream) <= cupti::last_default_stream;
  return !is_default && api.cuptiGetStreamIdEx(nullptr, stream, of_thread, &row.stream) == cupti::success;
}

void on_stream_wait(void* user, std::uint32_t domain, const void* data) {
  const auto& call = *static_cast<const cupti::ApiData*>(data);
  const bool is_runtime = domain == cupti::runtime_domain;
  const std::uint32_t now = window;
  const bool is_inside_runtime = window_of_wait == now;
  if (is_runtime) window_of_wait = call.site == cupti::on_enter ? now : 0;
  if (call.site == cupti::on_enter || is_runtime != is_inside_runtime || call.parameters == nullptr || now == 0) return;
  if (call.return_value != nullptr && *static_cast<const int*>(call.return_value) != 0) return;  // it was refused
  SyncRow row{};
  row.start = row.end = now_ns();
  void* stream = static_cast<const cupti::StreamWait*>(call.parameters)->stream;
  if (is_captured(call, stream)) return;
  if (!find_stream(*static_cast<const CuptiApi*>(user), call, stream, row)) return hand_over_unknown_stream();
  row.correlation = call.correlation;
  row.event = cupti::no_event;
  row.type = cupti::stream_waits;
  hand_over(row);
}

void on_callback(void* user, std::uint32_t domain, std::uint32_t callback, const void* data) noexcept {
  if (data == nullptr || is_forked_child.load(std::memory_order_relaxed)) return;
  if (domain == cupti::resource_domain) return on_graph_node(user, callback, data);
  on_stream_wait(user, domain, data);
}

// Who holds CUPTI, as CUPTI says itself, else by what tools leave in a process.
std::string holder(const CuptiApi& api, void* user) {
  char name[256] = "";
  if (api.cuptiSubscribe_v2 != nullptr) {
    cupti::SubscriberParameters parameters{sizeof parameters, "tetrace", name, sizeof name};
    Subscriber mine = nullptr;
    if (api.cuptiSubscribe_v2(&mine, on_callback, user, &parameters) == cupti::success) api.cuptiUnsubscribe(mine);
  }
  if (*name != '\0' && std::strstr(name, "<not provided>") == nullptr) return name;
  const std::string seen = other_tools();
  return seen.empty() ? "another tool" : seen;
}

std::string refusal(const CuptiApi& api, cupti::Result result, void* user) {
  if (result == cupti::multiple_subscribers) {
    return holder(api, user) + " holds CUPTI in this process; run the script without it, or record with --collector nsys";
  }
  if (result == cupti::insufficient_privileges || result == cupti::virtual_device_privileges) {
    return "the driver lets only administrators profile (" + api.words(result) +
           "); run as root, or load nvidia with NVreg_RestrictProfilingToAdminUsers=0";
  }
  return "CUPTI refuses: " + api.words(result) + " (" + api.library + "); `tetrace doctor` checks this machine";
}

}  // namespace

cupti::Result register_buffers(const CuptiApi& api) {
  if (api.cuptiActivitySetAttribute != nullptr) {
    std::uint8_t on = 1;
    std::size_t bytes = sizeof on;
    api.cuptiActivitySetAttribute(cupti::zeroed_out_buffers, &bytes, &on);
  }
  return api.cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
}

Subscriber subscribe(const CuptiApi& api, std::string& reason) {
  Subscriber subscriber = nullptr;
  void* user = const_cast<CuptiApi*>(&api);
  const cupti::Result result = api.cuptiSubscribe(&subscriber, on_callback, user);
  if (result != cupti::success || subscriber == nullptr) return reason = refusal(api, result, user), nullptr;
  for (const std::uint32_t callback : {cupti::graph_node_created, cupti::graph_node_cloned}) {
    api.cuptiEnableCallback(1, subscriber, cupti::resource_domain, callback);
  }
  return subscriber;
}

void end_buffers() { ended = true; }

}  // namespace tetrace::collector
