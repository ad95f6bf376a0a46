#include "collector/nvtx.h"

#include <string>

#include "collector/nvtx_stack.h"

namespace tetrace::collector {
namespace {

using nvtx::domain_of;

nvtxEventAttributes_t named(const char* text) {
  nvtxEventAttributes_t event{};
  event.messageType = NVTX_MESSAGE_TYPE_ASCII;
  event.message.ascii = text;
  return event;
}

nvtxEventAttributes_t named(const wchar_t* text) {
  nvtxEventAttributes_t event{};
  event.messageType = NVTX_MESSAGE_TYPE_UNICODE;
  event.message.unicode = text;
  return event;
}

int push_in(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  return nvtx::push(*domain_of(domain), event);
}
int push(const nvtxEventAttributes_t* event) { return push_in(nullptr, event); }
template <class Char>
int push_text(const Char* text) {
  const nvtxEventAttributes_t event = named(text);
  return push_in(nullptr, &event);
}

int pop_in(nvtxDomainHandle_t domain) { return nvtx::pop(*domain_of(domain)); }
int pop() { return pop_in(nullptr); }

nvtxRangeId_t start_in(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* event) {
  return nvtx::start(*domain_of(domain), event);
}
nvtxRangeId_t start(const nvtxEventAttributes_t* event) { return start_in(nullptr, event); }
template <class Char>
nvtxRangeId_t start_text(const Char* text) {
  const nvtxEventAttributes_t event = named(text);
  return start_in(nullptr, &event);
}

void end_in(nvtxDomainHandle_t, nvtxRangeId_t range) { nvtx::end(range); }
void end(nvtxRangeId_t range) { nvtx::end(range); }

std::string plain(const char* text) { return text == nullptr ? "" : text; }
std::string plain(const wchar_t* text) { return nvtx::narrow(text); }

template <class Char>
nvtxDomainHandle_t create_domain(const Char* name) {
  return reinterpret_cast<nvtxDomainHandle_t>(nvtx::make_domain(plain(name)));
}

template <class Char>
nvtxStringHandle_t register_string(nvtxDomainHandle_t domain, const Char* text) {
  return nvtx::register_string(domain, plain(text));
}

template <class Char>
void name_thread(std::uint32_t thread, const Char* name) {
  nvtx::name_thread(thread, plain(name));
}

// NVTX's table of one module: places to put functions, by their number. Older ones are shorter.
class Table {
 public:
  Table(const NvtxExportTableCallbacks& callbacks, NvtxCallbackModule module) {
    if (callbacks.GetModuleFunctionTable(module, &places_, &size_) == 0) size_ = 0;
  }
  bool is_there() const { return size_ > 0; }

  // `Type` is NVTX's own for the function of that number.
  template <class Type>
  void put(unsigned number, Type function) {
    if (number < size_ && places_[number] != nullptr) *places_[number] = reinterpret_cast<NvtxFunctionPointer>(function);
  }

 private:
  NvtxFunctionTable places_ = nullptr;
  unsigned size_ = 0;
};

void fill_default_domain(Table& table) {
  table.put<nvtxRangePushEx_impl_fntype>(NVTX_CBID_CORE_RangePushEx, push);
  table.put<nvtxRangePushA_impl_fntype>(NVTX_CBID_CORE_RangePushA, push_text<char>);
  table.put<nvtxRangePushW_impl_fntype>(NVTX_CBID_CORE_RangePushW, push_text<wchar_t>);
  table.put<nvtxRangePop_impl_fntype>(NVTX_CBID_CORE_RangePop, pop);
  table.put<nvtxRangeStartEx_impl_fntype>(NVTX_CBID_CORE_RangeStartEx, start);
  table.put<nvtxRangeStartA_impl_fntype>(NVTX_CBID_CORE_RangeStartA, start_text<char>);
  table.put<nvtxRangeStartW_impl_fntype>(NVTX_CBID_CORE_RangeStartW, start_text<wchar_t>);
  table.put<nvtxRangeEnd_impl_fntype>(NVTX_CBID_CORE_RangeEnd, end);
  table.put<nvtxNameOsThreadA_impl_fntype>(NVTX_CBID_CORE_NameOsThreadA, name_thread<char>);
  table.put<nvtxNameOsThreadW_impl_fntype>(NVTX_CBID_CORE_NameOsThreadW, name_thread<wchar_t>);
}

void fill_domains(Table& table) {
  table.put<nvtxDomainRangePushEx_impl_fntype>(NVTX_CBID_CORE2_DomainRangePushEx, push_in);
  table.put<nvtxDomainRangePop_impl_fntype>(NVTX_CBID_CORE2_DomainRangePop, pop_in);
  table.put<nvtxDomainRangeStartEx_impl_fntype>(NVTX_CBID_CORE2_DomainRangeStartEx, start_in);
  table.put<nvtxDomainRangeEnd_impl_fntype>(NVTX_CBID_CORE2_DomainRangeEnd, end_in);
  table.put<nvtxDomainCreateA_impl_fntype>(NVTX_CBID_CORE2_DomainCreateA, create_domain<char>);
  table.put<nvtxDomainCreateW_impl_fntype>(NVTX_CBID_CORE2_DomainCreateW, create_domain<wchar_t>);
  table.put<nvtxDomainRegisterStringA_impl_fntype>(NVTX_CBID_CORE2_DomainRegisterStringA, register_string<char>);
  table.put<nvtxDomainRegisterStringW_impl_fntype>(NVTX_CBID_CORE2_DomainRegisterStringW, register_string<wchar_t>);
}

}  // namespace

int initialize_nvtx(NvtxGetExportTableFunc_t get_export_table) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(get_export_table(NVTX_ETID_CALLBACKS));
  if (callbacks == nullptr || callbacks->struct_size < sizeof *callbacks) return 0;
  Table default_domain(*callbacks, NVTX_CB_MODULE_CORE);
  Table domains(*callbacks, NVTX_CB_MODULE_CORE2);
  if (!default_domain.is_there() || !domains.is_there()) return 0;
  fill_default_domain(default_domain);
  fill_domains(domains);
  return 1;
}

}  // namespace tetrace::collector
