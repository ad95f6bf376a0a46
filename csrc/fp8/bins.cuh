// The histogram of a block: a counter of a word for each lane, which the block's warps share, over a window of 64 binades.
// What lies outside goes to the block's 2048 counters at once. No counter overflows: a launch has below 2^32 elements.
//
// The counter of a value is at an address made of its bits. The lane is in bits 2 to 6, so that lanes never meet in a bank;
// in bit 7 whether the value lies above its quarter's edge, the quarter of the binade in bits 8 and 9, exponent mod 64 in
// bits 10 to 15. Counting is an atomic add, whose result nobody waits for: loads and stores of counters would wait for each
// other, since any two values may have the same one.
#pragma once

#include "fp8/launch.h"
#include "fp8/numbers.cuh"

namespace tetrace::fp8 {

extern __shared__ __align__(16) unsigned char shared_memory[];

__device__ inline int exponent_of(u32 float_bits) { return static_cast<int>(float_bits >> 23); }

// `|value|` as fp32 bits, not zero, finite.
__device__ inline u32 bin_of(u32 bits) { return (bits >> 21) * 2 + ((bits & 0x1FFFFFu) != 0); }

class Bins {
 public:
  static constexpr bool kept = true;

  __device__ void start() {
    auto* words = reinterpret_cast<uint4*>(shared_memory);
    for (u32 i = threadIdx.x; i < histogram_shared_bytes / sizeof(uint4); i += threads_per_block) words[i] = uint4{};
    own_ = both(threadIdx.x % 32 * 4);
    __syncthreads();
  }

  // Places the window around the block's first values: from 39 binades below the largest to 24 above. To be called by all
  // threads of the block before any value is added, with the largest exponent of each, or 0.
  __device__ void place_window(int exponent) {
    if (top_ >= 0) return;
    const int largest = __reduce_max_sync(~0u, exponent);
    if (threadIdx.x % 32 == 0) atomicMax(largest_exponent(), largest);
    __syncthreads();
    const int found = *largest_exponent();
    top_ = min((found == 0 ? exponent_of(0x3F800000u) : found) + 24, 254);
  }

  __device__ bool holds(int smallest_exponent, int largest_exponent) const {
    return largest_exponent <= top_ && smallest_exponent > top_ - binades;
  }

  // A pair of bf16 whose magnitudes are inside the window, or zeros.
  __device__ void add_bf16(u32 pair) {
    const u32 carried = (pair & 0x000F000Fu) + 0x000F000Fu;  // bit 4 is set unless bits 0 to 3 are zero
    const u32 places = masked(pair, carried) * 8 + own_;
    count(places & 0xFFFFu);
    count(places >> 16);
  }
  __device__ void add(u32 bits) {
    const u32 place = ((bits >> 13) & 0xFF00u) | (own_ & 0xFFFFu);
    count(place + ((bits & 0x1FFFFFu) != 0 ? 0x80u : 0u));
  }
  // Zeros that were added; they are in no bin.
  __device__ void forget_zeros(u32 zeros) { zeros_ += zeros; }
  // Any value that is not zero, wherever it lies.
  __device__ void add_outside(u32 bits) { atomicAdd(block_bins() + bin_of(bits), 1u); }

  __device__ void finish(u32* histogram) {
    const u32 first = top_ < 0 ? 0 : static_cast<u32>(top_ - binades + 1) * 8;
    const u32 zeros = __reduce_add_sync(~0u, zeros_);
    // Counted where the exponent is a multiple of 64: one bin of the window. `first` may be below zero, the sum is not.
    const u32 of_zeros = first + (0 - first) % rows;
    if (zeros != 0 && threadIdx.x % 32 == 0) atomicSub(block_bins() + of_zeros, zeros);
    __syncthreads();
    for (u32 bin = threadIdx.x; bin < 2048; bin += threads_per_block) {
      u32 found = block_bins()[bin];
      if (bin - first < rows) found += sum_of_lanes(bin % rows);
      if (found != 0) atomicAdd(histogram + bin, found);
    }
  }

 private:
  static constexpr int binades = 64;
  static constexpr u32 rows = binades * 8;
  static_assert(rows * 32 * 4 == window_bytes, "csrc/fp8/launch.h has the bytes of a block");

  __device__ static u32* block_bins() { return reinterpret_cast<u32*>(shared_memory + window_bytes); }
  __device__ static int* largest_exponent() { return reinterpret_cast<int*>(block_bins() + 2048); }

  // (pair | carried) & mask, as one instruction: nvcc moves the mask behind the shift that follows, and takes two more.
  __device__ static u32 masked(u32 pair, u32 carried) {
#ifdef __CUDA_ARCH__
    u32 bits;
    asm("lop3.b32 %0, %1, %2, 0x1FF01FF0, 0xA8;" : "=r"(bits) : "r"(pair), "r"(carried));
    return bits;
#else
    return (pair | carried) & 0x1FF01FF0u;  // tests/fp8/bins_test.cpp
#endif
  }
  __device__ static void count(u32 place) { atomicAdd(reinterpret_cast<u32*>(shared_memory + place), 1u); }

  // Eight lanes at a time read from all banks.
  __device__ static u32 sum_of_lanes(u32 row) {
    const auto* vectors = reinterpret_cast<const uint4*>(shared_memory + row * 128);
    u32 sum = 0;
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
      const uint4 four = vectors[(i + threadIdx.x) % 8];
      sum += four.x + four.y + four.z + four.w;
    }
    return sum;
  }

  u32 own_ = 0;    // of this lane, in both addresses of a pair
  int top_ = -1;   // largest exponent of the window
  u32 zeros_ = 0;  // of this thread, added as if they were values
};

struct NoBins {
  static constexpr bool kept = false;
  __device__ void start() {}
  __device__ void place_window(int) {}
  __device__ bool holds(int, int) const { return true; }
  __device__ void add_bf16(u32) {}
  __device__ void add(u32) {}
  __device__ void forget_zeros(u32) {}
  __device__ void add_outside(u32) {}
  __device__ void finish(u32*) {}
};

}  // namespace tetrace::fp8
