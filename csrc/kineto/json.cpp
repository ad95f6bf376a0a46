#include "kineto/json.h"

#include <cstring>

#include "kineto/blocks.h"

namespace tetrace::kineto {

const char* skip_long_space(const char* p, const char* end) {
#ifdef TETRACE_SSE2_BLOCKS
  // Pretty-printed files are a third white space.
  while (end - p >= 16 && *p <= ' ') {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const auto equal = [&bytes](char c) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c)); };
    const __m128i space = _mm_or_si128(_mm_or_si128(equal(' '), equal('\n')), _mm_or_si128(equal('\t'), equal('\r')));
    const int other = ~_mm_movemask_epi8(space) & 0xffff;
    if (other != 0) return p + __builtin_ctz(other);
    p += 16;
  }
#endif
  while (p < end && is_space(*p)) ++p;
  return p;
}

ContainerEnd::Found ContainerEnd::find(const char*& p, const char* end) {
  while (end - p >= block_bytes) {
    const Found found = find_in_block(p);
    if (found != Found::inside) return found;
  }
  while (p < end) {
    const Found found = find_in_byte(p);
    if (found != Found::inside) return found;
  }
  return Found::inside;
}

ContainerEnd::Found ContainerEnd::find_in_block(const char*& p) {
  const Block block = load_block(p);
  std::uint64_t quotes = block.quotes;
  if ((block.backslashes | escapes_next_) != 0) quotes &= ~escaped_bytes(block.backslashes, escapes_next_);
  const std::uint64_t strings = prefix_parity(quotes) ^ in_string_;
  std::uint64_t brackets = (block.opening | block.closing) & ~strings;
  const std::uint64_t breaks = newline_breaks_ ? block.newlines & strings : 0;
  if (breaks != 0) brackets &= (breaks & -breaks) - 1;
  while (brackets != 0) {
    const int i = __builtin_ctzll(brackets);
    depth_ += (block.opening >> i & 1) != 0 ? 1 : -1;
    if (depth_ == 0) {
      p += i + 1;
      return Found::closed;
    }
    brackets &= brackets - 1;
  }
  if (breaks != 0) {
    p += __builtin_ctzll(breaks);
    return Found::broken;
  }
  in_string_ = -(strings >> 63);
  p += block_bytes;
  return Found::inside;
}

ContainerEnd::Found ContainerEnd::find_in_byte(const char*& p) {
  const char c = *p++;
  const bool is_escaped = escapes_next_ != 0;
  escapes_next_ = c == '\\' && !is_escaped;
  if (c == '"') {
    if (!is_escaped) in_string_ = ~in_string_;
  } else if (in_string_ == 0) {
    if (c == '{' || c == '[') ++depth_;
    if ((c == '}' || c == ']') && --depth_ == 0) return Found::closed;
  }
  if (c == '\n' && in_string_ != 0 && newline_breaks_) {
    --p;
    return Found::broken;
  }
  return Found::inside;
}

const char* string_end(const char* p, const char* end, bool& has_escapes) {
  has_escapes = false;
  while (p < end) {
#ifdef TETRACE_SSE2_BLOCKS
    if (end - p >= 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
      const __m128i quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
      const int found = _mm_movemask_epi8(_mm_or_si128(quote, _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'))));
      if (found == 0) {
        p += 16;
        continue;
      }
      p += __builtin_ctz(found);
    }
#endif
    if (*p == '"') return p;
    if (*p == '\\') {
      has_escapes = true;
      ++p;
    }
    ++p;
  }
  return nullptr;
}

const char* scalar_end(const char* p, const char* end) {
  while (p < end && *p != ',' && *p != '}' && *p != ']' && !is_space(*p)) ++p;
  return p;
}

const char* value_end(const char* p, const char* end) {
  if (p == end) return nullptr;
  if (*p == '"') {
    bool has_escapes;
    const char* quote = string_end(p + 1, end, has_escapes);
    return quote == nullptr ? nullptr : quote + 1;
  }
  if (*p == '{' || *p == '[') {
    ++p;
    return ContainerEnd().find(p, end) == ContainerEnd::Found::closed ? p : nullptr;
  }
  return scalar_end(p, end);
}

namespace {

// Four hexadecimal digits, or -1.
std::int32_t hex4(const char* p, const char* end) {
  if (end - p < 4) return -1;
  std::int32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = p[i] | 0x20;
    const bool digit = p[i] >= '0' && p[i] <= '9';
    if (!digit && (c < 'a' || c > 'f')) return -1;
    value = value * 16 + (digit ? p[i] - '0' : c - 'a' + 10);
  }
  return value;
}

void append_utf8(std::uint32_t code, std::string& text) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xc0 | code >> 6);
    tail(0);
  } else if (code < 0x10000) {
    text += static_cast<char>(0xe0 | code >> 12);
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xf0 | code >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

bool is_high_surrogate(std::int32_t code) { return code >= 0xd800 && code < 0xdc00; }
bool is_low_surrogate(std::int32_t code) { return code >= 0xdc00 && code < 0xe000; }

// The character of the \u whose digits are at `p`, which moves behind it and behind a second half.
std::uint32_t unicode_escape(const char*& p, const char* end) {
  constexpr std::uint32_t replacement = 0xfffd;
  const std::int32_t first = hex4(p, end);
  p += 4;
  if (is_low_surrogate(first)) return replacement;
  if (!is_high_surrogate(first)) return static_cast<std::uint32_t>(first);
  const std::int32_t second = end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2, end) : -1;
  if (!is_low_surrogate(second)) return replacement;
  p += 6;
  return 0x10000 + ((static_cast<std::uint32_t>(first) - 0xd800) << 10) + (static_cast<std::uint32_t>(second) - 0xdc00);
}

}  // namespace

void unescape(std::string_view raw, std::string& text) {
  static constexpr std::string_view letters = "\"\\/bfnrt";
  static constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
  text.clear();
  const char* p = raw.data();
  const char* end = p + raw.size();
  while (p < end) {
    const char* backslash = static_cast<const char*>(std::memchr(p, '\\', end - p));
    if (backslash == nullptr || backslash + 1 == end) break;
    text.append(p, backslash);
    const char letter = backslash[1];
    p = backslash + 2;
    if (const std::size_t i = letters.find(letter); i != std::string_view::npos) {
      text += meanings[i];
    } else if (letter == 'u' && hex4(p, end) >= 0) {
      append_utf8(unicode_escape(p, end), text);
    } else {
      text.append(backslash, p);
    }
  }
  text.append(p, end);
}

}  // namespace tetrace::kineto
