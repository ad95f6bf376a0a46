#include "fp8/tensor_stats.h"

#include <algorithm>
#include <cstring>

#include "common/error.h"

namespace tetrace::fp8 {
namespace {

constexpr std::int64_t element_bytes[] = {2, 2, 4, 1, 1};
constexpr std::uint64_t vector_bytes = 16;
// Of tensors that are sampled: 2 MiB of bf16, which are read in 2 us, in rows of some sectors.
constexpr std::int64_t least_elements = 1 << 20;
constexpr std::int64_t least_columns = 128;

std::int64_t bytes_of(Dtype dtype) { return element_bytes[static_cast<int>(dtype)]; }

bool is_code(Dtype dtype) { return dtype == Dtype::e4m3 || dtype == Dtype::e5m2; }

// OCP 8-bit Floating Point Specification (2023), table 1: largest value, smallest subnormal, smallest normal.
constexpr Bounds e4m3_bounds{448.0f, 0x1p-10f, 0x1p-6f - 0x1p-10f, 0x1p-6f, 1.5f * 0x1p20f};
constexpr Bounds e5m2_bounds{57344.0f, 0x1p-17f, 0x1p-14f - 0x1p-17f, 0x1p-14f, 1.5f * 0x1p21f};

std::uint32_t lanes_for(std::uint64_t vectors, std::uint32_t loads) {
  std::uint32_t lanes = 1;
  while (lanes < threads_per_block && lanes * std::uint64_t{loads} < vectors) lanes *= 2;
  return lanes;
}

std::uint64_t tiles_of(const Task& task, std::uint64_t vectors) {
  const std::uint64_t in_chunk = std::uint64_t{task.lanes} * task.loads;
  const std::uint64_t rows_in_tile = threads_per_block / task.lanes;
  return (vectors + in_chunk - 1) / in_chunk * ((task.rows + rows_in_tile - 1) / rows_in_tile);
}

// The fewer tiles there are, the fewer vectors a thread takes at once, so that all multiprocessors have some.
std::uint64_t cut(Task& task, std::uint64_t in_vector, std::uint64_t wanted_tiles) {
  const std::uint64_t vectors = (task.columns + in_vector - 1) / in_vector;
  for (std::uint32_t loads = loads_per_thread;; loads /= 2) {
    task.loads = static_cast<std::uint16_t>(loads);
    task.lanes = static_cast<std::uint16_t>(lanes_for(vectors, loads));
    const std::uint64_t tiles = tiles_of(task, vectors);
    if (tiles >= wanted_tiles || loads == 1) return tiles;
  }
}

Task task_of(const Tensor& tensor, const Call& call) {
  const bool is_whole = call.layout == Layout::tensor && (tensor.rows == 1 || tensor.row_stride == tensor.columns);
  Task task{};
  task.data = tensor.data;
  task.scale = tensor.scale;
  task.rows = is_whole ? 1 : static_cast<std::uint32_t>(tensor.rows);
  task.columns = static_cast<std::uint64_t>(is_whole ? tensor.rows * tensor.columns : tensor.columns);
  task.row_stride = is_whole ? 0 : static_cast<std::uint64_t>(tensor.row_stride);
  task.scale_stride = static_cast<std::uint32_t>(tensor.scale_stride);
  return task;
}

// Blocks for each task: one a tile, or as many as run at the same time, shared out by size.
template <int most>
unsigned place(Batch<most>& batch, const std::vector<std::uint64_t>& tiles, std::uint64_t most_blocks) {
  std::uint64_t all = 0;
  for (const std::uint64_t some : tiles) all += some;
  unsigned next = 0;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    batch.tasks[i].first_block = next;
    const std::uint64_t share = all <= most_blocks ? tiles[i] : tiles[i] * most_blocks / all;
    next += static_cast<unsigned>(std::max<std::uint64_t>(share, 1));
  }
  return next;
}

template <int most>
int launch_batch(const Kernels& kernels, Stream stream, const std::vector<Task>& tasks, const Call& call,
                 const Target& target) {
  const Kernel& kernel = kernels.find(call, most == 1);
  Batch<most> batch;  // not initialized: of most tasks the kernel reads none
  batch.counters = reinterpret_cast<Counters*>(target.counters);
  batch.histograms = reinterpret_cast<std::uint32_t*>(target.histograms);
  batch.count = static_cast<std::uint32_t>(tasks.size());
  batch.layout = static_cast<std::uint32_t>(call.layout);
  batch.is_inverse = call.scale_is_inverse || is_code(call.dtype) ? 1 : 0;
  batch.bounds = call.format == Format::e5m2 ? e5m2_bounds : e4m3_bounds;
  std::vector<std::uint64_t> tiles;
  const auto multiprocessors = static_cast<std::uint64_t>(kernels.multiprocessors());
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    batch.tasks[i] = tasks[i];
    const auto in_vector = vector_bytes / static_cast<std::uint64_t>(bytes_of(call.dtype));
    tiles.push_back(cut(batch.tasks[i], in_vector, multiprocessors / tasks.size()));
  }
  const unsigned blocks = place(batch, tiles, static_cast<std::uint64_t>(kernel.most_blocks));
  void* parameters[] = {&batch};
  return kernels.driver().launch(kernel.function, blocks, 1, 1, threads_per_block, 1, 1, kernel.shared_bytes, stream,
                                 parameters, nullptr);
}

}  // namespace

std::uint64_t elements_of(const Tensor& tensor) {
  return static_cast<std::uint64_t>(tensor.rows) * static_cast<std::uint64_t>(tensor.columns);
}

std::int64_t rows_of_sample(std::int64_t rows, std::int64_t columns, std::int64_t every) {
  if (every <= 1 || columns < least_columns || rows <= every || rows < least_elements / columns) return rows;
  return (rows + every - 1) / every;
}

Tensor sample_of(const Tensor& tensor, Layout layout, std::int64_t every) {
  const std::int64_t rows = rows_of_sample(tensor.rows, tensor.columns, every);
  if (layout != Layout::tensor || rows == tensor.rows) return tensor;
  Tensor some = tensor;
  some.of_rows = tensor.rows;
  some.rows = rows;
  some.row_stride = tensor.row_stride * every;
  return some;
}

std::uint64_t whole_of(const Tensor& tensor) {
  return static_cast<std::uint64_t>(std::max(tensor.rows, tensor.of_rows)) * static_cast<std::uint64_t>(tensor.columns);
}

std::uint32_t flags_of(const Tensor& tensor, const Call& call) {
  const Format format = call.dtype == Dtype::e4m3 ? Format::e4m3 : call.dtype == Dtype::e5m2 ? Format::e5m2 : call.format;
  std::uint32_t flags = static_cast<std::uint32_t>(format) << flag::format_shift;
  flags |= static_cast<std::uint32_t>(call.layout) << flag::layout_shift;
  if (call.histogram) flags |= flag::histogram;
  if (format != Format::none) flags |= flag::format_known;
  if (is_code(call.dtype)) flags |= flag::quantized;
  if (tensor.of_rows > 0) flags |= flag::sampled;
  return flags;
}

void check(const Tensor* tensors, std::size_t count, const Call& call) {
  if (static_cast<int>(call.dtype) > 4) refuse("dtype ", static_cast<int>(call.dtype), " is none; give 0 to 4");
  if (static_cast<int>(call.format) > 2) refuse("format ", static_cast<int>(call.format), " is none; give 0, 1 or 2");
  if (static_cast<int>(call.layout) > 3) refuse("layout ", static_cast<int>(call.layout), " is none; give 0 to 3");
  for (std::size_t i = 0; i < count; ++i) {
    const Tensor& one = tensors[i];
    if (one.rows < 0 || one.columns < 0 || one.row_stride < 0 || one.scale_stride < 0) {
      refuse("rows ", one.rows, ", columns ", one.columns, ", strides ", one.row_stride, " and ", one.scale_stride,
             "; none may be negative");
    }
    if (elements_of(one) == 0) continue;
    const bool is_tall = one.rows > 0xFFFFFFFF || one.scale_stride > 0xFFFFFFFF;
    if (is_tall) refuse(one.rows, " rows are more than one launch takes; give parts below 2^32 rows");
    if (call.histogram && elements_of(one) > 0xFFFFFFFF) {
      refuse(elements_of(one), " elements may overflow a bin; give parts below 2^32 elements");
    }
    if (one.data == nullptr) refuse("a tensor of ", elements_of(one), " elements has no address");
    if (reinterpret_cast<std::uintptr_t>(one.data) % static_cast<std::uintptr_t>(bytes_of(call.dtype)) != 0) {
      refuse("the address ", one.data, " is not a multiple of the element's ", bytes_of(call.dtype), " bytes");
    }
    if (call.layout != Layout::tensor && one.scale == nullptr) refuse("a tensor of blocks has no scales; give their address");
  }
}

int launch(const Kernels& kernels, Stream stream, const Tensor* tensors, std::size_t count, const Call& call,
           const Target& target) {
  std::vector<Task> tasks;
  int error = timing::success;
  const auto send = [&] {
    if (tasks.empty() || error != timing::success) return;
    error = tasks.size() == 1 && kernels.has_one(call) ? launch_batch<1>(kernels, stream, tasks, call, target)
                                                       : launch_batch<64>(kernels, stream, tasks, call, target);
    tasks.clear();
  };
  for (std::size_t i = 0; i < count; ++i) {
    if (elements_of(tensors[i]) == 0) continue;
    tasks.push_back(task_of(tensors[i], call));
    tasks.back().slot = static_cast<std::uint32_t>((target.first + i) % target.capacity);
    tasks.back().bins = static_cast<std::uint32_t>((target.first_bins + i) % target.capacity);
    if (tasks.size() == most_tensors) send();
  }
  send();
  return error;
}

}  // namespace tetrace::fp8
