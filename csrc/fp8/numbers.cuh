// Bits of the element types, and arithmetic on two halves of a word at once.
#pragma once

#include <cstdint>

namespace tetrace::fp8 {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

constexpr u32 float_infinity = 0x7F800000u;

__device__ inline u32 both(u32 half) { return half * 0x00010001u; }
__device__ inline u32 sum_of_halves(u32 word) { return (word & 0xFFFFu) + (word >> 16); }
__device__ inline u32 larger_half(u32 word) { return max(word & 0xFFFFu, word >> 16); }
__device__ inline u32 smaller_half(u32 word) { return min(word & 0xFFFFu, word >> 16); }

__device__ inline u32 minus_both(u32 half) { return both((0x10000u - half) & 0xFFFFu); }
// 1 in each half of `word`, below 0x8000, that is above a limit, given as `minus_both(limit)`.
__device__ inline u32 halves_above(u32 word, u32 minus_limit) {
  return __viaddmin_s16x2_relu(word, minus_limit, 0x00010001u);
}

// 1 where `value`, below 2^31, is above `limit`.
__device__ inline u32 is_above(u32 value, u32 limit) {
  return static_cast<u32>(__viaddmin_s32_relu(static_cast<int>(value), -static_cast<int>(limit), 1));
}

struct Bf16 {
  static constexpr u32 largest = 0x7F7F;
  __device__ static u32 truncate(float value) { return __float_as_uint(value) >> 16; }
  __device__ static float widen(u32 half) { return __uint_as_float(half << 16); }
  __device__ static void widen(u32 word, float& low, float& high) {
    low = __uint_as_float(word << 16);
    high = __uint_as_float(word & 0xFFFF0000u);
  }
};

// Not by cuda_fp16.h, which needs more of CUDA than a build has to have.
struct Fp16 {
  static constexpr u32 largest = 0x7BFF;
  __device__ static u32 truncate(float value) {
    unsigned short half;
    asm("cvt.rz.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
  }
  __device__ static float widen(u32 half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<unsigned short>(half)));
    return value;
  }
  __device__ static void widen(u32 word, float& low, float& high) {
    low = widen(word & 0xFFFFu);
    high = widen(word >> 16);
  }
};

// The largest magnitude, as bits of S, whose product with `scale` is at most `limit`, or below it. 0 where none is.
template <class S>
__device__ u32 last_within(float limit, float scale, bool inclusive) {
  const auto within = [&](u32 bits) {
    const float product = S::widen(bits) * scale;
    return inclusive ? product <= limit : product < limit;
  };
  u32 bits = min(S::truncate(limit / scale), S::largest);
  while (bits > 0 && !within(bits)) --bits;
  while (bits < S::largest && within(bits + 1)) ++bits;
  return bits;
}

// Finite and positive, with an inverse in fp32: from 2^-127 on.
__device__ inline bool is_usable(float scale) { return scale >= 5.8774718e-39f && scale <= 3.402823466e38f; }

// `product`, a value times its scale, minus what it is rounded to; up to the format's largest value.
__device__ inline float rounding(float product, float smallest_normal, float magic) {
  const float power = fmaxf(__uint_as_float(__float_as_uint(product) & float_infinity), smallest_normal);
  const float shifted = fmaf(power, magic, product);
  return product - fmaf(power, -magic, shifted);
}

}  // namespace tetrace::fp8
