#include "collector/nvtx_texts.h"

#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "collector/rows.h"
#include "collector/texts.h"
#include "names/op_names.h"

namespace tetrace::collector::nvtx {
namespace {

constexpr std::size_t most_bytes = 4096;  // of a text; what follows is cut off
constexpr std::size_t cache_slots = 2048;
constexpr char separator = '\x1f';

// NVTX's handle of a registered string points here. Never freed.
struct Registered {
  const Domain* domain;
  std::string text;
  std::int64_t sequence;
  std::atomic<std::uint32_t> id{no_text};  // once a range of it was recorded
};

// Never destroyed: threads may still run while the process ends.
struct Tables {
  std::mutex mutex;
  std::unordered_map<std::string, std::unique_ptr<Domain>> domains;
  std::unordered_map<std::string, std::unique_ptr<Registered>> strings;  // by "DOMAIN'S NUMBER\x1fTEXT"
};

Tables& tables() {
  static Tables& only = *new Tables;
  return only;
}

Domain* default_domain() {
  static Domain& only = *new Domain{"", 0, false};
  return &only;
}

std::uint32_t number_of(const Domain& domain, std::string_view text) {
  return nvtx_text_id(domain.name + separator + std::string(text));
}

Text find_registered(const Domain& domain, nvtxStringHandle_t handle) {
  auto* string = reinterpret_cast<Registered*>(handle);
  if (string == nullptr) return {no_text, names::no_sequence};
  std::uint32_t id = string->id.load(std::memory_order_relaxed);
  if (id == no_text) {
    id = number_of(domain, string->text);
    string->id.store(id, std::memory_order_relaxed);
  }
  return {id, string->sequence};
}

void add_utf8(std::string& text, std::uint32_t code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
    return;
  }
  const int further = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr int first[] = {0, 0xC0, 0xE0, 0xF0};
  text += static_cast<char>(first[further] | static_cast<int>(code >> 6 * further));
  for (int left = further - 1; left >= 0; --left) text += static_cast<char>(0x80 | ((code >> 6 * left) & 0x3F));
}

}  // namespace

Text TextCache::find(const Domain& domain, std::string_view text) {
  const names::OpName name = names::parse_op_name(text.substr(0, most_bytes));
  if (slots_.empty()) slots_.resize(cache_slots);
  Slot& slot = slots_[(names::hash(name.name) + static_cast<std::uint32_t>(domain.number)) % cache_slots];
  if (slot.domain != &domain || slot.text != name.name) {
    slot.id = number_of(domain, name.name);
    slot.domain = &domain;
    slot.text = name.name;
  }
  return {slot.id, name.sequence};
}

Domain* make_domain(std::string name) {
  Tables& all = tables();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::unique_ptr<Domain>& domain = all.domains[name];
  const auto number = static_cast<std::int32_t>(all.domains.size());
  const bool is_ours = name == "tetrace";
  if (!domain) domain.reset(new Domain{std::move(name), number, is_ours});
  return domain.get();
}

Domain* domain_of(nvtxDomainHandle_t handle) {
  return handle == nullptr ? default_domain() : reinterpret_cast<Domain*>(handle);
}

nvtxStringHandle_t register_string(nvtxDomainHandle_t handle, std::string text) {
  const Domain* domain = domain_of(handle);
  Tables& all = tables();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::unique_ptr<Registered>& string = all.strings[std::to_string(domain->number) + separator + text];
  if (!string) {
    const names::OpName name = names::parse_op_name(std::string_view(text).substr(0, most_bytes));
    string.reset(new Registered{domain, std::string(name.name), name.sequence});
  }
  return reinterpret_cast<nvtxStringHandle_t>(string.get());
}

Text find_text(TextCache& cache, const Domain& domain, const nvtxEventAttributes_t* event) {
  if (event == nullptr) return cache.find(domain, "");
  const nvtxMessageValue_t& message = event->message;
  switch (event->messageType) {
    case NVTX_MESSAGE_TYPE_REGISTERED:
      return find_registered(domain, message.registered);
    case NVTX_MESSAGE_TYPE_UNICODE:
      return cache.find(domain, narrow(message.unicode));
    case NVTX_MESSAGE_TYPE_ASCII:
      return cache.find(domain, message.ascii == nullptr ? "" : message.ascii);
    default:
      return cache.find(domain, "");
  }
}

std::string narrow(const wchar_t* text) {
  std::string narrowed;
  for (; text != nullptr && *text != L'\0' && narrowed.size() < most_bytes; ++text) {
    const auto code = static_cast<std::uint32_t>(*text);
    add_utf8(narrowed, code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0xFFFD : code);
  }
  return narrowed;
}

void lock_texts() { tables().mutex.lock(); }
void unlock_texts() { tables().mutex.unlock(); }

}  // namespace tetrace::collector::nvtx
