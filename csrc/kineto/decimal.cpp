#include "kineto/json.h"

namespace tetrace::kineto {

namespace {

constexpr std::int64_t most_power = 1'000'000;  // far beyond what fits; keeps sums of exponents small

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// value × 10 + digit; false when it does not fit.
bool append_digit(std::int64_t& value, int digit) {
  return !__builtin_mul_overflow(value, 10, &value) && !__builtin_add_overflow(value, digit, &value);
}

// The exponent behind an e, at most most_power in size; false when it has no digits or something follows it.
bool exponent(const char* p, const char* end, std::int64_t& value) {
  const bool negative = p < end && *p == '-';
  if (p < end && (*p == '-' || *p == '+')) ++p;
  if (p == end) return false;
  value = 0;
  for (; p < end; ++p) {
    if (!is_digit(*p)) return false;
    if (value < most_power) value = value * 10 + (*p - '0');
  }
  if (negative) value = -value;
  return true;
}

struct Digits {
  const char* begin;
  const char* end;        // behind the last digit, the point among them
  std::int64_t integer_count;  // digits before the point
  std::int64_t power;          // of the exponent
};

bool read_digits(const char* p, const char* end, Digits& digits) {
  digits = {p, p, 0, 0};
  while (p < end && is_digit(*p)) ++p;
  digits.integer_count = p - digits.begin;
  std::int64_t count = digits.integer_count;
  if (p < end && *p == '.') {
    const char* fraction = ++p;
    while (p < end && is_digit(*p)) ++p;
    count += p - fraction;
  }
  digits.end = p;
  if (count == 0) return false;
  if (p == end) return true;
  return (*p == 'e' || *p == 'E') && exponent(p + 1, end, digits.power);
}

}  // namespace

bool scaled_integer(std::string_view number, int power, std::int64_t& value) {
  const char* p = number.data();
  const char* end = p + number.size();
  const bool negative = p < end && *p == '-';
  Digits digits{};
  if (!read_digits(p + negative, end, digits)) return false;
  // The power of ten of the digit at hand; the result keeps those at and above 0 and rounds by the one at -1.
  std::int64_t place = digits.integer_count - 1 + digits.power + power;
  std::int64_t result = 0;
  for (p = digits.begin; p < digits.end && place >= -1; ++p) {
    if (*p == '.') continue;
    const int digit = *p - '0';
    const bool fits = place >= 0 ? append_digit(result, digit) : !__builtin_add_overflow(result, digit >= 5, &result);
    if (!fits) return false;
    --place;
  }
  for (; place >= 0 && result != 0; --place) {
    if (!append_digit(result, 0)) return false;
  }
  value = negative ? -result : result;
  return true;
}

}  // namespace tetrace::kineto
