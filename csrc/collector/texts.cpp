#include "collector/texts.h"

#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "collector/handover.h"
#include "collector/rows.h"
#include "collector/window.h"
#include "collector/writer.h"

namespace tetrace::collector {
namespace {

constexpr std::size_t longest = std::size_t{1} << 16;

// Numbers of texts by text. A script that puts numbers into the texts of its ranges makes new ones for ever: they must not
// take the room of others.
struct Shelf {
  std::unordered_map<std::string_view, std::uint32_t> ids;
  std::size_t bytes = 0;
  bool is_full = false;
};

// The lock is a leaf: nothing is called while it is held. Never destroyed: threads may run while the process ends.
struct Texts {
  std::mutex mutex;
  Shelf plain, nvtx;
  std::deque<std::string> kept;
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

enum class Found { known, added, no_room, first_without_room };

Found find_or_add(Texts& all, std::string_view text, std::uint32_t bit, std::size_t most_bytes, std::uint32_t& id) {
  const std::lock_guard<std::mutex> lock(all.mutex);
  Shelf& shelf = bit == 0 ? all.plain : all.nvtx;
  const auto found = shelf.ids.find(text);
  if (found != shelf.ids.end()) return id = found->second, Found::known;
  constexpr std::size_t bookkeeping = 128;
  if (shelf.bytes + text.size() + bookkeeping > most_bytes) {
    return std::exchange(shelf.is_full, true) ? Found::no_room : Found::first_without_room;
  }
  shelf.bytes += text.size() + bookkeeping;
  id = static_cast<std::uint32_t>(all.kept.size()) | bit;
  all.kept.emplace_back(text);
  shelf.ids.emplace(all.kept.back(), id);
  add_to_frame(all, id, text);
  return Found::added;
}

std::uint32_t number_of(std::string_view text, std::uint32_t bit, std::size_t most_bytes, const char* what) {
  if (is_forked_child.load(std::memory_order_relaxed)) return no_text;
  std::uint32_t id = no_text;
  const Found found = find_or_add(texts(), text.substr(0, longest), bit, most_bytes, id);
  if (found == Found::first_without_room) hand_over(Happened::texts_full, what, most_bytes);
  if (found == Found::added && bit == nvtx_text) wake_writer();
  return id;
}

}  // namespace

std::uint32_t text_id(std::string_view text) { return number_of(text, 0, most_text_bytes, "kernels"); }

std::uint32_t own_text_id(std::string_view text) { return number_of(text, 0, SIZE_MAX, ""); }

std::uint32_t nvtx_text_id(std::string_view domain_and_text) {
  return number_of(domain_and_text, nvtx_text, most_text_bytes, "NVTX ranges");
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
