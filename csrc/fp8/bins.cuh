// The histogram of a block: counters of one byte for each lane, so that no two threads ever meet, over a window of 32
// binades; they are added up into the block's 2048 counters before one can overflow. What lies below the window goes there
// at once.
//
// The counter of a value is at an address made of its bits: exponent mod 32 in bits 7 to 11, the quarter of the binade in
// bits 0 and 1, in bit 12 whether it lies above the quarter's edge, and the lane in bits 2 to 6.
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
    table_ = threadIdx.x / 32 * warp_table_bytes;
    __syncthreads();
  }

  // To be called by all lanes before a tile of so many elements a lane is added, with the largest exponent in it.
  __device__ void make_room(int largest_exponent, int elements) {
    if (__any_sync(~0u, largest_exponent > top_)) {
      flush();
      top_ = min(static_cast<int>(__reduce_max_sync(~0u, largest_exponent)) + 2, 254);
    }
    if (held_ + elements > 255) flush();
    held_ += elements;
  }

  __device__ bool holds(int smallest_exponent) const { return smallest_exponent > top_ - 32; }

  // A pair of bf16 magnitudes inside the window, or zeros.
  __device__ void add_bf16(u32 magnitudes) {
    const u32 above_edge = __vminu2(magnitudes & 0x001F001Fu, 0x00010001u);
    const u32 place = (magnitudes & 0x0F800F80u) | ((magnitudes >> 5) & 0x00030003u);
    const u32 pair = above_edge * 0x1000u + place;
    count(pair & 0xFFFFu);
    count(pair >> 16);
  }
  __device__ void add(u32 bits) {
    const u32 place = ((bits >> 16) & 0x0F80u) | ((bits >> 21) & 3u);
    count(place + ((bits & 0x1FFFFFu) != 0 ? 0x1000u : 0u));
  }
  // Zeros that were added; they are in no bin.
  __device__ void forget_zeros(u32 zeros) { zeros_ += zeros; }
  // Any value that is not zero, wherever it lies.
  __device__ void add_outside(u32 bits) { atomicAdd(block_bins() + bin_of(bits), 1u); }

  __device__ void finish(u32* histogram) {
    flush();
    __syncthreads();
    for (u32 bin = threadIdx.x; bin < 2048; bin += threads_per_block) {
      const u32 found = block_bins()[bin];
      if (found != 0) atomicAdd(histogram + bin, found);
    }
  }

 private:
  __device__ static u32* block_bins() {
    return reinterpret_cast<u32*>(shared_memory + threads_per_block / 32 * warp_table_bytes);
  }
  __device__ void count(u32 place) { ++shared_memory[table_ + (threadIdx.x % 32) * 4 + place]; }

  __device__ void flush() {
    if (held_ == 0) return;
    empty_table(table_, top_ - 31, zeros_);
    held_ = 0;
    zeros_ = 0;
  }

  // Each lane adds up the counters of all lanes for two exponents-and-edges, 128 bytes each. `first` is the smallest
  // exponent of the window. Not inlined: it is not run often, and takes many registers.
  __device__ static __noinline__ void empty_table(u32 table, int first, u32 own_zeros) {
    __syncwarp();
    const u32 lane = threadIdx.x % 32;
    const u32 zeros = __reduce_add_sync(~0u, own_zeros);
    for (u32 edge = 0; edge < 2; ++edge) {
      const auto* row = reinterpret_cast<const uint4*>(shared_memory + table + edge * 4096 + lane * 128);
      u32 even = 0, odd = 0;  // quarters 0 and 2, 1 and 3; 32 bytes are below 2^16
#pragma unroll
      for (u32 i = 0; i < 8; ++i) {
        const uint4 four = row[(i + lane) % 8];
        even += (four.x & 0x00FF00FFu) + (four.y & 0x00FF00FFu);
        odd += ((four.x >> 8) & 0x00FF00FFu) + ((four.y >> 8) & 0x00FF00FFu);
        even += (four.z & 0x00FF00FFu) + (four.w & 0x00FF00FFu);
        odd += ((four.z >> 8) & 0x00FF00FFu) + ((four.w >> 8) & 0x00FF00FFu);
      }
      if (edge == 0 && lane == 0) even -= zeros;
      const u32 exponent = static_cast<u32>(first + ((static_cast<int>(lane) - first) & 31));
      u32* bins = block_bins() + exponent * 8 + edge;
      const u32 counts[4] = {even & 0xFFFFu, odd & 0xFFFFu, even >> 16, odd >> 16};
      for (u32 quarter = 0; quarter < 4; ++quarter) {
        if (counts[quarter] != 0) atomicAdd(bins + quarter * 2, counts[quarter]);
      }
    }
    __syncwarp();
    auto* words = reinterpret_cast<uint4*>(shared_memory + table);
    for (u32 i = lane; i < warp_table_bytes / sizeof(uint4); i += 32) words[i] = uint4{};
    __syncwarp();
  }

  u32 table_ = 0;  // of this warp, in bytes
  int top_ = -1;   // largest exponent of the window
  int held_ = 0;   // at most, in one counter
  u32 zeros_ = 0;  // of this lane, added as if they were values
};

struct NoBins {
  static constexpr bool kept = false;
  __device__ void start() {}
  __device__ void make_room(int, int) {}
  __device__ bool holds(int) const { return true; }
  __device__ void add_bf16(u32) {}
  __device__ void add(u32) {}
  __device__ void forget_zeros(u32) {}
  __device__ void add_outside(u32) {}
  __device__ void finish(u32*) {}
};

}  // namespace tetrace::fp8
