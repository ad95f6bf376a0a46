// The histogram of csrc/fp8/bins.cuh, run by 256 threads of the processor as a block: `bins_test` exits with 1 where a bin
// is not what was added.
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#define __device__
#define __shared__
#define __noinline__
#define __align__(bytes) __attribute__((aligned(bytes)))

using std::max;
using std::min;

struct uint4 {
  std::uint32_t x, y, z, w;
};
thread_local struct {
  std::uint32_t x;
} threadIdx;

std::barrier<> block(256);
struct Warp {
  std::barrier<> barrier{32};
  std::uint32_t values[32];
} warps[8];

void __syncthreads() { block.arrive_and_wait(); }
template <class Fold>
std::uint32_t reduced(std::uint32_t value, Fold fold) {
  Warp& warp = warps[threadIdx.x / 32];
  warp.values[threadIdx.x % 32] = value;
  warp.barrier.arrive_and_wait();
  std::uint32_t result = warp.values[0];
  for (int i = 1; i < 32; ++i) result = fold(result, warp.values[i]);
  warp.barrier.arrive_and_wait();
  return result;
}
int __reduce_max_sync(unsigned, int value) {
  return static_cast<int>(reduced(value, [](std::uint32_t a, std::uint32_t b) { return max(a, b); }));
}
std::uint32_t __reduce_add_sync(unsigned, std::uint32_t value) {
  return reduced(value, [](std::uint32_t a, std::uint32_t b) { return a + b; });
}
void atomicAdd(std::uint32_t* to, std::uint32_t value) { __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }
void atomicSub(std::uint32_t* to, std::uint32_t value) { __atomic_fetch_sub(to, value, __ATOMIC_RELAXED); }
void atomicMax(int* to, int value) {
  int old = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(to, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}
float __uint_as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
std::uint32_t __float_as_uint(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
// Only of what is not asked for here (csrc/fp8/numbers.cuh).
std::uint32_t __viaddmin_s16x2_relu(std::uint32_t, std::uint32_t, std::uint32_t) { std::abort(); }
int __viaddmin_s32_relu(int, int, int) { std::abort(); }

#include "fp8/bins.cuh"

namespace tetrace::fp8 {
__align__(16) unsigned char shared_memory[histogram_shared_bytes];
}

using namespace tetrace::fp8;

namespace {

constexpr int in_tile = 8;  // elements of a thread

// What one thread adds of a tile; `words`: pairs of bf16, as the kernel for bf16 adds them.
void add_tile(Bins& bins, const std::uint16_t* values, bool words) {
  u32 most = 0, least = ~0u, zeros = 0;
  for (int i = 0; i < in_tile; ++i) {
    const u32 bits = (values[i] & 0x7FFFu) << 16;
    most = max(most, bits);
    least = bits != 0 ? min(least, bits) : least;
    zeros += bits == 0;
  }
  const bool has_values = most != 0 && most < float_infinity;
  bins.place_window(has_values ? exponent_of(most) : 0);
  if (has_values && bins.holds(exponent_of(least), exponent_of(most))) {
    for (int i = 0; i < in_tile; i += words ? 2 : 1) {
      if (words) {
        bins.add_bf16(values[i] | static_cast<u32>(values[i + 1]) << 16);
      } else {
        bins.add((values[i] & 0x7FFFu) << 16);
      }
    }
    bins.forget_zeros(zeros);
    return;
  }
  for (int i = 0; i < in_tile; ++i) {
    const u32 bits = (values[i] & 0x7FFFu) << 16;
    if (bits != 0 && bits < float_infinity) bins.add_outside(bits);
  }
}

int wrong_bins(const std::vector<std::uint16_t>& values, bool words) {
  std::vector<u32> found(2048), expected(2048);
  for (std::uint16_t value : values) {
    const u32 bits = (value & 0x7FFFu) << 16;
    if (bits != 0 && bits < float_infinity) ++expected[bin_of(bits)];
  }
  std::vector<std::thread> threads;
  for (u32 number = 0; number < threads_per_block; ++number) {
    threads.emplace_back([&, number] {
      threadIdx.x = number;
      Bins bins;
      bins.start();
      for (std::size_t at = 0; at < values.size(); at += threads_per_block * in_tile) {
        add_tile(bins, values.data() + at + number * in_tile, words);
      }
      bins.finish(found.data());
    });
  }
  for (std::thread& thread : threads) thread.join();
  int wrong = 0;
  for (int i = 0; i < 2048; ++i) wrong += found[i] != expected[i];
  return wrong;
}

}  // namespace

int main() {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  const auto bf16 = [](float value) { return static_cast<std::uint16_t>(__float_as_uint(value) >> 16); };
  const char* kinds[] = {"any bits", "zeros", "zeros and any bits", "normal", "subnormal", "largest", "wide"};
  int failures = 0;
  const auto check = [&](const char* kind, const std::vector<std::uint16_t>& values) {
    for (bool words : {true, false}) {
      const int wrong = wrong_bins(values, words);
      if (wrong != 0) std::fprintf(stderr, "%s, %s: %d bins\n", kind, words ? "words" : "values", wrong);
      failures += wrong != 0;
    }
  };
  for (int kind = 0; kind < 7; ++kind) {
    std::vector<std::uint16_t> values(threads_per_block * in_tile * 3);
    for (std::uint16_t& value : values) {
      const auto bits = static_cast<std::uint16_t>(random());
      const std::uint16_t choices[] = {
          bits, 0, static_cast<std::uint16_t>(random() % 4 != 0 ? 0 : bits), bf16(normal(random)),
          static_cast<std::uint16_t>(bits & 0x80FF), static_cast<std::uint16_t>(bits | 0x7F00),
          bf16(std::exp(20 * normal(random)))};
      value = choices[kind];
    }
    check(kinds[kind], values);
  }
  // With zeros among them, at every place that the window may have.
  for (int exponent = -126; exponent <= 126; exponent += 7) {
    std::vector<std::uint16_t> values(threads_per_block * in_tile);
    for (std::uint16_t& value : values) value = random() % 3 != 0 ? bf16(std::ldexp(normal(random), exponent)) : 0;
    check("normal times a power of two", values);
  }
  // Blocks that have no tile.
  check("nothing", {});
  return failures != 0;
}
