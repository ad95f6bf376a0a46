// Sixty-four bytes of JSON at a time, as bit masks: bit i says something about byte i.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__) && !defined(TETRACE_PORTABLE_BLOCKS)
#include <emmintrin.h>
#define TETRACE_SSE2_BLOCKS 1
#endif

namespace tetrace::kineto {

constexpr int block_bytes = 64;

struct Block {
  std::uint64_t quotes;
  std::uint64_t backslashes;
  std::uint64_t opening;  // { and [
  std::uint64_t closing;  // } and ]
  std::uint64_t newlines;
};

// Brackets and braces differ in this bit only.
constexpr char brace_bit = 0x20;

#ifdef TETRACE_SSE2_BLOCKS

inline Block load_block(const char* p) {
  Block block{};
  for (int lane = 0; lane < 4; ++lane) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * lane));
    const __m128i folded = _mm_or_si128(bytes, _mm_set1_epi8(brace_bit));
    const auto mask = [lane](__m128i text, char c) {
      const __m128i equal = _mm_cmpeq_epi8(text, _mm_set1_epi8(c));
      return static_cast<std::uint64_t>(_mm_movemask_epi8(equal)) << (16 * lane);
    };
    block.quotes |= mask(bytes, '"');
    block.backslashes |= mask(bytes, '\\');
    block.opening |= mask(folded, '{');
    block.closing |= mask(folded, '}');
    block.newlines |= mask(bytes, '\n');
  }
  return block;
}

#else

// The bytes of `word` that equal `c`, as eight bits.
inline std::uint64_t equal_bytes(std::uint64_t word, char c) {
  constexpr std::uint64_t low_7_bits = 0x7f7f7f7f7f7f7f7fULL;
  const std::uint64_t x = word ^ (0x0101010101010101ULL * static_cast<unsigned char>(c));
  // 0x80 in each byte of x that is zero; then the eight bits gathered, byte 0 lowest.
  const std::uint64_t zero = ~(((x & low_7_bits) + low_7_bits) | x | low_7_bits);
  return ((zero >> 7) * 0x0102040810204080ULL) >> 56;
}

// Little-endian machines only, as all that CUDA runs on are.
inline Block load_block(const char* p) {
  Block block{};
  for (int lane = 0; lane < 8; ++lane) {
    std::uint64_t word;
    std::memcpy(&word, p + 8 * lane, 8);
    const std::uint64_t folded = word | 0x2020202020202020ULL;
    block.quotes |= equal_bytes(word, '"') << (8 * lane);
    block.backslashes |= equal_bytes(word, '\\') << (8 * lane);
    block.opening |= equal_bytes(folded, '{') << (8 * lane);
    block.closing |= equal_bytes(folded, '}') << (8 * lane);
    block.newlines |= equal_bytes(word, '\n') << (8 * lane);
  }
  return block;
}

#endif

// Bytes that a backslash before them escapes. `carry` is 1 when the byte before the block escapes its first one.
inline std::uint64_t escaped_bytes(std::uint64_t backslashes, std::uint64_t& carry) {
  std::uint64_t escaped = carry;
  backslashes &= ~carry;
  carry = 0;
  while (backslashes != 0) {
    const std::uint64_t first = backslashes & -backslashes;
    const std::uint64_t next = first << 1;  // 0 when the backslash is the last byte
    escaped |= next;
    carry = next == 0;
    backslashes &= ~(first | next);
  }
  return escaped;
}

// Bit i is the parity of the bits up to and including i: from quotes, the insides of strings.
inline std::uint64_t prefix_parity(std::uint64_t bits) {
  for (int shift = 1; shift < block_bytes; shift *= 2) bits ^= bits << shift;
  return bits;
}

}  // namespace tetrace::kineto
