#include "names/op_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>

#include "common/error.h"

namespace tetrace::names {

std::uint64_t hash(std::string_view text) {
  constexpr std::uint64_t multiplier = 0x9E3779B97F4A7C15;  // 2^64 divided by the golden ratio
  std::uint64_t mixed = text.size() * multiplier;
  const auto mix = [&](std::uint64_t word) {
    mixed = (mixed ^ word) * multiplier;
    mixed ^= mixed >> 32;
  };
  for (; text.size() >= sizeof(std::uint64_t); text.remove_prefix(sizeof(std::uint64_t))) {
    std::uint64_t word;
    std::memcpy(&word, text.data(), sizeof word);
    mix(word);
  }
  std::uint64_t rest = 0;
  std::memcpy(&rest, text.data(), text.size());
  mix(rest);
  return mixed;
}

namespace {

// Takes `prefix` off the front of `text`, if it is there.
bool take(std::string_view& text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix) return false;
  text.remove_prefix(prefix.size());
  return true;
}

bool take_integer(std::string_view& text, std::int64_t& value) {
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(rest - text.data()));
  return true;
}

constexpr std::array<bool, 256> letters_of_lists() {
  std::array<bool, 256> found{};
  for (const char letter : std::string_view("[]()-0123456789, ")) found[static_cast<unsigned char>(letter)] = true;
  return found;
}

// A bracketed list of numbers, lists and pairs.
bool take_list(std::string_view& text) {
  static constexpr std::array<bool, 256> allowed = letters_of_lists();
  std::size_t depth = 0;
  for (std::size_t at = 0; at < text.size() && allowed[static_cast<unsigned char>(text[at])]; ++at) {
    if (text[at] == '[') ++depth;
    if (depth == 0) return false;
    if (text[at] == ']' && --depth == 0) {
      text.remove_prefix(at + 1);
      return true;
    }
  }
  return false;
}

// Whether `fields` is what emit_nvtx writes after a name, and nothing else.
bool parse_fields(std::string_view fields, std::int64_t& sequence) {
  std::int64_t op_id = 0;
  if (take(fields, ", seq = ") && !take_integer(fields, sequence)) return false;
  if (take(fields, ", op_id = ") && !take_integer(fields, op_id)) return false;
  if (take(fields, ", sizes = ") && !take_list(fields)) return false;
  if (take(fields, ", input_op_ids = ") && !take_list(fields)) return false;
  return fields.empty();
}

// Words and their codes: open addressing with linear probing, at most half full.
class Dictionary {
 public:
  std::int32_t code(std::string_view word) {
    const std::uint64_t hashed = hash(word);
    std::size_t at = hashed % slots_.size();
    for (; slots_[at].code != free; at = (at + 1) % slots_.size()) {
      if (slots_[at].hash == hashed && words_[static_cast<std::size_t>(slots_[at].code)] == word) {
        return slots_[at].code;
      }
    }
    const auto code = static_cast<std::int32_t>(words_.size());
    slots_[at] = {hashed, code};
    words_.push_back(word);
    if (2 * words_.size() > slots_.size()) grow();
    return code;
  }

  std::vector<std::string_view> take_words() { return std::move(words_); }

 private:
  static constexpr std::int32_t free = -1;

  struct Slot {
    std::uint64_t hash = 0;
    std::int32_t code = free;
  };

  void grow() {
    std::vector<Slot> larger(2 * slots_.size());
    for (const Slot& slot : slots_) {
      if (slot.code == free) continue;
      std::size_t at = slot.hash % larger.size();
      while (larger[at].code != free) at = (at + 1) % larger.size();
      larger[at] = slot;
    }
    slots_.swap(larger);
  }

  std::vector<Slot> slots_ = std::vector<Slot>(1024);  // always a power of two
  std::vector<std::string_view> words_;
};

template <class Offset>
void check(Span<Offset> offsets, std::size_t bytes) {
  if (offsets.size() == 0) refuse("offsets are empty; expected one more than there are texts");
  if (offsets.size() - 1 > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    refuse("too many texts for 32-bit codes: ", offsets.size() - 1);
  }
  if (offsets[0] < 0) refuse("offset 0 is ", offsets[0], "; expected at least 0");
  for (std::size_t text = 1; text < offsets.size(); ++text) {
    if (offsets[text] < offsets[text - 1]) {
      refuse("offset ", text, " is ", offsets[text], ", below the one before it, ", offsets[text - 1]);
    }
  }
  const auto last = static_cast<std::uint64_t>(offsets[offsets.size() - 1]);
  if (last > bytes) refuse("the last offset is ", last, ", beyond the ", bytes, " bytes of data");
}

}  // namespace

OpName parse_op_name(std::string_view text) {
  for (std::size_t comma = text.find(','); comma != text.npos; comma = text.find(',', comma + 1)) {
    std::int64_t sequence = no_sequence;
    if (parse_fields(text.substr(comma), sequence)) {
      return {text.substr(0, comma), std::max(sequence, no_sequence)};
    }
  }
  return {text, no_sequence};
}

template <class Offset>
EncodedNames encode(Span<Offset> offsets, Span<std::uint8_t> data) {
  check(offsets, data.size());
  const std::size_t texts = offsets.size() - 1;
  EncodedNames encoded{Column<std::int32_t>(texts), Column<std::int64_t>(texts), {}};
  Dictionary dictionary;
  std::string_view last_name;
  std::int32_t last_code = -1;
  for (std::size_t row = 0; row < texts; ++row) {
    const auto begin = static_cast<std::size_t>(offsets[row]);
    const auto size = static_cast<std::size_t>(offsets[row + 1]) - begin;
    const OpName op = parse_op_name({reinterpret_cast<const char*>(data.data()) + begin, size});
    if (last_code < 0 || op.name != last_name) {
      last_code = dictionary.code(op.name);
      last_name = op.name;
    }
    encoded.codes[row] = last_code;
    encoded.sequence[row] = op.sequence;
  }
  encoded.words = dictionary.take_words();
  return encoded;
}

template EncodedNames encode(Span<std::int32_t>, Span<std::uint8_t>);
template EncodedNames encode(Span<std::int64_t>, Span<std::uint8_t>);

}  // namespace tetrace::names
