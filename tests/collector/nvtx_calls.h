// NVTX as a program has it: tables of functions that a tool fills, and calls through them. One copy of NVTX.
#pragma once

#include <nvtx3/nvToolsExt.h>

#include <cstdint>

extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t);

namespace nvtx_calls {

constexpr unsigned size = 16;
inline NvtxFunctionPointer core[size], core2[size];
inline NvtxFunctionPointer* core_places[size + 1];
inline NvtxFunctionPointer* core2_places[size + 1];

inline int table(NvtxCallbackModule module, NvtxFunctionTable* places, unsigned* count) {
  if (module != NVTX_CB_MODULE_CORE && module != NVTX_CB_MODULE_CORE2) return 0;
  *places = module == NVTX_CB_MODULE_CORE ? core_places : core2_places;
  *count = size;
  return 1;
}

inline const void* export_table(std::uint32_t id) {
  static const NvtxExportTableCallbacks callbacks{sizeof callbacks, table};
  return id == NVTX_ETID_CALLBACKS ? &callbacks : nullptr;
}

inline bool attach() {
  for (unsigned number = 0; number < size; ++number) {
    core_places[number] = &core[number];
    core2_places[number] = &core2[number];
  }
  return InitializeInjectionNvtx2(export_table) == 1;
}

template <class Type, class... Arguments>
auto call(NvtxFunctionPointer function, Arguments... arguments) {
  return reinterpret_cast<Type>(function)(arguments...);
}

inline void push(const char* text) { call<nvtxRangePushA_impl_fntype>(core[NVTX_CBID_CORE_RangePushA], text); }
inline void pop() { call<nvtxRangePop_impl_fntype>(core[NVTX_CBID_CORE_RangePop]); }
inline nvtxRangeId_t start(const char* text) {
  return call<nvtxRangeStartA_impl_fntype>(core[NVTX_CBID_CORE_RangeStartA], text);
}
inline void end(nvtxRangeId_t range) { call<nvtxRangeEnd_impl_fntype>(core[NVTX_CBID_CORE_RangeEnd], range); }

inline nvtxDomainHandle_t domain(const char* name) {
  return call<nvtxDomainCreateA_impl_fntype>(core2[NVTX_CBID_CORE2_DomainCreateA], name);
}
inline nvtxStringHandle_t string(nvtxDomainHandle_t of, const char* text) {
  return call<nvtxDomainRegisterStringA_impl_fntype>(core2[NVTX_CBID_CORE2_DomainRegisterStringA], of, text);
}
inline void push(nvtxDomainHandle_t in, nvtxStringHandle_t text) {
  nvtxEventAttributes_t event{};
  event.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
  event.message.registered = text;
  call<nvtxDomainRangePushEx_impl_fntype>(core2[NVTX_CBID_CORE2_DomainRangePushEx], in, &event);
}
inline void pop(nvtxDomainHandle_t in) {
  call<nvtxDomainRangePop_impl_fntype>(core2[NVTX_CBID_CORE2_DomainRangePop], in);
}

}  // namespace nvtx_calls
