// Pieces of JSON text: where values end, what strings and numbers say. Tolerant: what to do with text that is no
// JSON is the caller's decision.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tetrace::kineto {

inline bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

const char* skip_long_space(const char* p, const char* end);

// Between most tokens is nothing or one blank.
inline const char* skip_space(const char* p, const char* end) {
  if (p < end && *p == ' ') ++p;
  return p < end && is_space(*p) ? skip_long_space(p, end) : p;
}

// Finds the end of an object or array whose opening bracket was read, over any number of pieces of text.
class ContainerEnd {
 public:
  enum class Found { inside, closed, broken };

  // `lines_end_strings`: a newline inside a string is no JSON, and a sign that a quote before it was not escaped.
  explicit ContainerEnd(bool lines_end_strings = false) : newline_breaks_(lines_end_strings) {}

  // Reads on from `p`, and moves it behind the closing bracket, to the break, or to `end`.
  Found find(const char*& p, const char* end);

 private:
  Found find_in_block(const char*& p);
  Found find_in_byte(const char*& p);

  std::int64_t depth_ = 1;
  std::uint64_t in_string_ = 0;  // all ones inside a string
  std::uint64_t escapes_next_ = 0;
  bool newline_breaks_;
};

// The closing quote of the string whose opening quote is before `p`; nullptr when it is not in [p, end).
const char* string_end(const char* p, const char* end, bool& has_escapes);

// The first byte behind the number, true, false or null (or whatever stands in their place) at `p`.
const char* scalar_end(const char* p, const char* end);

// The first byte behind the value at `p`; nullptr when it does not end in [p, end).
const char* value_end(const char* p, const char* end);

// UTF-8 text of what stands between two quotes. Lone surrogates become U+FFFD, unknown escapes stay as they are.
void unescape(std::string_view raw, std::string& text);

// `number` × 10^power as an integer, rounded half away from zero; decimals and exponents without float64.
// False when it is no number or does not fit.
bool scaled_integer(std::string_view number, int power, std::int64_t& value);

}  // namespace tetrace::kineto
