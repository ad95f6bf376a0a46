// One pass over the tensors of a launch. Each block takes tiles of one tensor in turn; a thread has `loads` vectors of a
// tile in flight. csrc/fp8/kernels.cpp has the names of what is instantiated here.
#include "fp8/bins.cuh"
#include "fp8/floats.cuh"
#include "fp8/launch.h"
#include "fp8/packed.cuh"
#include "fp8/totals.cuh"

namespace tetrace::fp8 {
namespace {

constexpr int vector_bytes = 16;

// Without a place in the first-level cache, and like any other read in the second: what comes next reads it too.
__device__ uint4 load_vector(const void* address) {
  uint4 vector;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(vector.x), "=r"(vector.y), "=r"(vector.z), "=r"(vector.w)
      : "l"(address));
  return vector;
}

template <int bytes>
__device__ uint4 load_element(const char* address) {
  uint4 vector{};
  if (bytes == 1) vector.x = *reinterpret_cast<const std::uint8_t*>(address);
  if (bytes == 2) vector.x = *reinterpret_cast<const std::uint16_t*>(address);
  if (bytes == 4) vector.x = *reinterpret_cast<const std::uint32_t*>(address);
  return vector;
}

// Where a thread reads. Rows whose vectors are not aligned have single elements at their ends; where a vector could lie
// in two blocks, all elements are single ones. Little of it stays in registers: what only odd tensors need is worked out
// again.
template <int in_vector, bool has_blocks>
class Reader {
 public:
  __device__ explicit Reader(const Task& task) : task_(task) {
    const u64 vectors = is_single() ? task.columns : (task.columns + in_vector - 1) / in_vector;
    const u32 in_tile = static_cast<u32>(task.lanes) * task.loads;
    chunks_ = static_cast<u32>((vectors + in_tile - 1) / in_tile);
    tiles_ = chunks_ * ((task.rows + rows_in_tile() - 1) / rows_in_tile());
    if (has_blocks || task.rows > 1 || task.loads != loads_per_thread) return;
    const Place place = place_of(0);
    own_ = place.begin + place.head * element_bytes + threadIdx.x * vector_bytes;
    whole_tiles_ = static_cast<u32>(place.vectors / in_tile);
  }

  __device__ u32 tiles() const { return tiles_; }

  __device__ void load(u32 number, Tile<loads_per_thread>& tile) const {
    if (!has_blocks && number < whole_tiles_) {
      load_whole(number, tile);
    } else {
      load_part(number, tile);
    }
  }

  // How often `load_edge` is to be called after a tile: after the first of a row that has some.
  __device__ u32 edges(u32 number) const {
    if ((is_aligned() && task_.columns % in_vector == 0) || is_single() || number % chunks_ != 0) return 0;
    return (2 * in_vector + task_.lanes - 1) / task_.lanes;
  }
  __device__ void load_edge(u32 number, u32 turn, Tile<loads_per_thread>& tile) const {
    const Place place = place_of(number / chunks_);
    const u64 middle = place.vectors * in_vector;
    const u64 outside = place.row < task_.rows ? task_.columns - middle : 0;
    const u64 at = turn * task_.lanes + threadIdx.x % task_.lanes;
    tile.column = at < place.head ? at : at + middle;
#pragma unroll
    for (int i = 0; i < loads_per_thread; ++i) {
      tile.loaded[i] = uint4{};
      tile.valid[i] = i == 0 && at < outside;
    }
    if (at < outside) tile.loaded[0] = load_element<element_bytes>(place.begin + tile.column * element_bytes);
  }

 private:
  static constexpr int element_bytes = vector_bytes / in_vector;

  // A row, the elements before its first vector, and its vectors.
  struct Place {
    const char* begin;
    u64 head, vectors;
    u32 row;
  };

  __device__ u32 rows_in_tile() const { return threads_per_block / static_cast<u32>(task_.lanes); }
  __device__ bool is_aligned() const {
    return (reinterpret_cast<u64>(task_.data) | task_.row_stride * element_bytes) % vector_bytes == 0;
  }
  __device__ bool is_single() const { return has_blocks && !(is_aligned() && task_.columns % in_vector == 0); }

  __device__ Place place_of(u32 group) const {
    Place place{};
    place.row = group * rows_in_tile() + threadIdx.x / task_.lanes;
    place.begin = static_cast<const char*>(task_.data) + place.row * task_.row_stride * element_bytes;
    if (place.row >= task_.rows) return place;
    place.vectors = is_single() ? task_.columns : task_.columns / in_vector;
    if (is_aligned() || is_single()) return place;
    const u64 missing = (0 - reinterpret_cast<u64>(place.begin)) % vector_bytes / element_bytes;
    place.head = min(missing, task_.columns);
    place.vectors = (task_.columns - place.head) / in_vector;
    return place;
  }

  // Of a tensor that is one row: a tile in which no thread lacks a vector.
  __device__ void load_whole(u32 number, Tile<loads_per_thread>& tile) const {
    constexpr u32 stride = threads_per_block * vector_bytes;
    const char* address = own_ + u64{number} * (stride * loads_per_thread);
#pragma unroll
    for (int i = 0; i < loads_per_thread; ++i) tile.loaded[i] = load_vector(address + i * stride);
  }

  __device__ void load_part(u32 number, Tile<loads_per_thread>& tile) const {
    const u32 group = tiles_ == chunks_ ? 0 : number / chunks_;
    const Place place = place_of(group);
    const u64 first = u64{number - group * chunks_} * task_.loads * task_.lanes + threadIdx.x % task_.lanes;
    const u32 elements = is_single() ? 1 : in_vector;
    tile.row = place.row;
    tile.column = place.head + first * elements;
    tile.column_step = task_.lanes * elements;
#pragma unroll
    for (int i = 0; i < loads_per_thread; ++i) {
      const u64 index = first + static_cast<u64>(i) * task_.lanes;
      tile.valid[i] = i < task_.loads && index < place.vectors;
      tile.loaded[i] = uint4{};
      if (!tile.valid[i]) continue;
      const char* address = place.begin + (place.head + index * elements) * element_bytes;
      tile.loaded[i] = has_blocks && is_single() ? load_element<element_bytes>(address) : load_vector(address);
    }
  }

  const Task& task_;
  u32 chunks_, tiles_;
  u32 whole_tiles_ = 0;
  const char* own_ = nullptr;
};

// Of the task that this block works for.
template <int most>
__device__ u32 task_of_block(const Batch<most>& batch) {
  u32 first = 0, last = batch.count;
  while (last - first > 1) {
    const u32 middle = (first + last) / 2;
    (batch.tasks[middle].first_block <= blockIdx.x ? first : last) = middle;
  }
  return first;
}

template <class Unit, bool has_blocks, int most>
__device__ void run(const Batch<most>& batch) {
  const u32 number = most == 1 ? 0 : task_of_block(batch);
  const Task& task = batch.tasks[number];
  const u32 end = most == 1 || number + 1 == batch.count ? gridDim.x : batch.tasks[number + 1].first_block;
  const u32 first = blockIdx.x - task.first_block, step = end - task.first_block;
  Reader<Unit::vector_elements, has_blocks> reader(task);
  Tile<loads_per_thread> tile;
  if (first < reader.tiles()) reader.load(first, tile);  // under way while the scale is read
  Unit unit;
  unit.start(batch, task);
  u32 added = 0;
  for (u32 at = first; at < reader.tiles(); at += step) {
    if (at != first) reader.load(at, tile);
    for (u32 turn = 0;; ++turn) {
      unit.add_tile(tile);
      if (++added % Unit::tiles_before_gather == 0) unit.gather();
      if (turn >= reader.edges(at)) break;
      reader.load_edge(at, turn, tile);
    }
  }
  unit.finish(task, batch.counters + task.slot, batch.histograms + u64{2048} * task.bins, first == 0);
}

}  // namespace
}  // namespace tetrace::fp8

using namespace tetrace::fp8;

// `blocks` of a multiprocessor at the same time bound the registers of a thread.
#define KERNEL(name, most, has_blocks, blocks, ...)                                                         \
  extern "C" __global__ void __launch_bounds__(threads_per_block, blocks)                                   \
      tetrace_fp8_##name(const __grid_constant__ Batch<most> batch) {                                       \
    run<__VA_ARGS__, has_blocks>(batch);                                                                    \
  }
#define ONE_OR_MANY(name, blocks, ...)               \
  KERNEL(name##_one, 1, false, blocks, __VA_ARGS__)  \
  KERNEL(name##_many, 64, false, blocks, __VA_ARGS__)

#define VALUES(name, Type)                                   \
  ONE_OR_MANY(name##_moments, 4, Type<false, NoBins>)        \
  ONE_OR_MANY(name##_moments_bins, 3, Type<false, Bins>)     \
  ONE_OR_MANY(name##_format, 3, Type<true, NoBins>)          \
  ONE_OR_MANY(name##_format_bins, 3, Type<true, Bins>)
#define BLOCKS(name, ...)                                                        \
  KERNEL(name##_blocks_many, 64, true, 2, Floats<__VA_ARGS__, true, NoBins>)     \
  KERNEL(name##_blocks_bins_many, 64, true, 2, Floats<__VA_ARGS__, true, Bins>)
#define CODES(name, format)                                                                  \
  KERNEL(name##_many, 64, false, 3, Floats<Codes<format>, false, false, NoBins>)             \
  KERNEL(name##_bins_many, 64, false, 3, Floats<Codes<format>, false, false, Bins>)          \
  BLOCKS(name, Codes<format>, false)

template <bool has_format, class B>
using Bf16s = Packed<Bf16, has_format, B>;
template <bool has_format, class B>
using Fp16s = Packed<Fp16, has_format, B>;
template <bool has_format, class B>
using Fp32s = Floats<Fp32, has_format, false, B>;

VALUES(bf16, Bf16s)
VALUES(f16, Fp16s)
VALUES(f32, Fp32s)
BLOCKS(bf16, Halves<Bf16>, true)
BLOCKS(f16, Halves<Fp16>, true)
BLOCKS(f32, Fp32, true)
CODES(e4m3, Format::e4m3)
CODES(e5m2, Format::e5m2)
