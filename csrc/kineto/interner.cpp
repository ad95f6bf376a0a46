#include "kineto/interner.h"

#include <cstring>

namespace tetrace::kineto {

namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// Eight bytes a step: kernel names are hundreds of bytes long, and there are millions of them.
std::uint64_t hash(std::string_view text) {
  constexpr std::uint64_t odd_1 = 0x9e3779b97f4a7c15ULL;
  constexpr std::uint64_t odd_2 = 0xd6e8feb86659fd93ULL;
  std::uint64_t state = mix(text.size() ^ odd_1, odd_2);
  const char* p = text.data();
  std::size_t left = text.size();
  std::uint64_t word = 0;
  for (; left >= 8; p += 8, left -= 8) {
    std::memcpy(&word, p, 8);
    state = mix(state ^ word, odd_1);
  }
  word = 0;
  if (left != 0) std::memcpy(&word, p, left);
  return mix(state ^ word, odd_2);
}

constexpr std::size_t first_slots = 1024;

}  // namespace

std::int32_t Interner::code(std::string_view text) {
  if (words_.size() * 2 >= slots_.size()) grow();
  const std::uint64_t key = hash(text);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t slot = key & mask;; slot = (slot + 1) & mask) {
    const std::int32_t found = slots_[slot];
    if (found < 0) {
      slots_[slot] = static_cast<std::int32_t>(words_.size());
      words_.emplace_back(text);
      hashes_.push_back(key);
      return slots_[slot];
    }
    if (hashes_[found] == key && words_[found] == text) return found;
  }
}

void Interner::grow() {
  slots_.assign(slots_.empty() ? first_slots : slots_.size() * 2, -1);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t word = 0; word < words_.size(); ++word) {
    std::size_t slot = hashes_[word] & mask;
    while (slots_[slot] >= 0) slot = (slot + 1) & mask;
    slots_[slot] = static_cast<std::int32_t>(word);
  }
}

}  // namespace tetrace::kineto
