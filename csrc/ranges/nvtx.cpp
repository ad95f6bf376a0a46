#include "ranges/nvtx.h"

#include <cstdlib>
#include <mutex>

#if defined(TETRACE_NVTX)
#include <nvtx3/nvToolsExt.h>
#endif

namespace tetrace::ranges::nvtx {

std::atomic<void*> domain{nullptr};

#if defined(TETRACE_NVTX)
namespace {

nvtxDomainHandle_t handle() { return static_cast<nvtxDomainHandle_t>(domain.load(std::memory_order_relaxed)); }

nvtxStringHandle_t registered(Site& site) {
  void* string = site.registered.load(std::memory_order_relaxed);
  if (string == nullptr) {
    // Two threads may both register it; the tool then knows it twice, and either handle is good.
    string = nvtxDomainRegisterStringA(handle(), site.name.c_str());
    site.registered.store(string, std::memory_order_relaxed);
  }
  return static_cast<nvtxStringHandle_t>(string);
}

nvtxEventAttributes_t attributes(Site& site, std::uint64_t payload) {
  nvtxEventAttributes_t event{};
  event.version = NVTX_VERSION;
  event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  event.category = site.category;
  event.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
  event.payload.ullValue = payload;
  event.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  event.message.registered = registered(site);
  return event;
}

}  // namespace

void find_tool() {
  static std::atomic<bool> found{false};
  if (found.load(std::memory_order_relaxed)) return;
  const char* tool = std::getenv("NVTX_INJECTION64_PATH");
  if (tool == nullptr || *tool == '\0' || found.exchange(true)) return;
  domain.store(nvtxDomainCreateA("tetrace"), std::memory_order_release);
}

void push(Site& site, std::uint64_t payload) {
  const nvtxEventAttributes_t event = attributes(site, payload);
  nvtxDomainRangePushEx(handle(), &event);
}

void pop() { nvtxDomainRangePop(handle()); }

std::uint64_t start(Site& site, std::uint64_t payload) {
  const nvtxEventAttributes_t event = attributes(site, payload);
  return nvtxDomainRangeStartEx(handle(), &event);
}

void end(std::uint64_t range) { nvtxDomainRangeEnd(handle(), range); }

#else

void find_tool() {}
void push(Site&, std::uint64_t) {}
void pop() {}
std::uint64_t start(Site&, std::uint64_t) { return 0; }
void end(std::uint64_t) {}

#endif

}  // namespace tetrace::ranges::nvtx
