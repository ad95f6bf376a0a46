#include "collector/texts.h"

#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "collector/rows.h"
#include "collector/window.h"
#include "collector/writer.h"

namespace tetrace::collector {
namespace {

// A script that puts numbers into the texts of its ranges makes new ones for ever.
constexpr std::size_t most_bytes = std::size_t{32} << 20;
constexpr std::size_t longest = std::size_t{1} << 16;

// The lock is a leaf: nothing is called while it is held. Never destroyed: threads may run while the process ends.
struct Texts {
  std::mutex mutex;
  std::unordered_map<std::string_view, std::uint32_t> plain, nvtx;
  std::deque<std::string> kept;
  std::size_t bytes = 0;
  std::vector<char> fresh;
  std::uint32_t fresh_count = 0;
};

Texts& texts() {
  static Texts& only = *new Texts;
  return only;
}

void append(std::vector<char>& to, const void* bytes, std::size_t count) {
  const char* from = static_cast<const char*>(bytes);
  to.insert(to.end(), from, from + count);
}

void add_to_frame(Texts& all, std::uint32_t id, std::string_view text) {
  const auto length = static_cast<std::uint32_t>(text.size());
  append(all.fresh, &id, sizeof id);
  append(all.fresh, &length, sizeof length);
  append(all.fresh, text.data(), text.size());
  all.fresh.resize((all.fresh.size() + 3) / 4 * 4);
  ++all.fresh_count;
}

std::uint32_t find_or_add(std::string_view text, std::uint32_t bit, bool& added) {
  if (is_forked_child.load(std::memory_order_relaxed)) return no_text;
  text = text.substr(0, longest);
  Texts& all = texts();
  const std::lock_guard<std::mutex> lock(all.mutex);
  auto& ids = bit == 0 ? all.plain : all.nvtx;
  const auto found = ids.find(text);
  if (found != ids.end()) return found->second;
  constexpr std::size_t bookkeeping = 128;
  if (all.bytes + text.size() + bookkeeping > most_bytes) return no_text;
  all.bytes += text.size() + bookkeeping;
  const std::uint32_t id = static_cast<std::uint32_t>(all.kept.size()) | bit;
  all.kept.emplace_back(text);
  ids.emplace(all.kept.back(), id);
  add_to_frame(all, id, text);
  added = true;
  return id;
}

}  // namespace

std::uint32_t text_id(std::string_view text) {
  bool added = false;
  return find_or_add(text, 0, added);
}

std::uint32_t nvtx_text_id(std::string_view domain_and_text) {
  bool added = false;
  const std::uint32_t id = find_or_add(domain_and_text, nvtx_text, added);
  if (added) wake_writer();
  return id;
}

std::vector<char> take_new_texts(std::uint32_t& count) {
  Texts& all = texts();
  const std::lock_guard<std::mutex> lock(all.mutex);
  count = all.fresh_count;
  all.fresh_count = 0;
  return std::exchange(all.fresh, {});
}

// An address may have another name later, when a module was unloaded: the text is compared too.
std::uint32_t NameCache::find(const char* name) {
  if (name == nullptr) return no_text;
  const auto address = reinterpret_cast<std::uintptr_t>(name);
  Known& place = known_[(address >> 3 ^ address >> 15) % places];
  if (place.address == name && place.text == name) return place.id;
  place = {name, text_id(name), name};
  return place.id;
}

}  // namespace tetrace::collector
