// Observing tensors in a running program: one launch a call on the caller's stream, a row a tensor in a ring on the
// device, one copy of a step's rows to the host. Nothing here waits for a device or needs the interpreter, and between
// `open` and `close` nothing is allocated.
//
// All may be called on any thread, with or without the interpreter's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fp8/row.h"

namespace tetrace::fp8 {

// Of the elements; FP8 codes are their own bytes.
enum class Dtype : std::uint8_t { bf16 = 0, f16 = 1, f32 = 2, e4m3 = 3, e5m2 = 4 };

// Rows of elements that follow each other. A contiguous tensor of any shape is `rows` x its last dimension, or 1 x all
// of it; with a scale for each block the rows must be those of the matrix that was quantized.
struct Tensor {
  const void* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t row_stride = 0;  // elements from one row to the next
  std::int32_t site = -1;
  // On the device, read when the launch runs; may be null. fp32, bytes for Layout::mx.
  const void* scale = nullptr;
  std::int64_t scale_stride = 0;  // elements from one row of the matrix of scales to the next
  std::int64_t of_rows = 0;       // that the tensor has, where these are some of them; 0: they are all
};

// What the tensors of one call share.
struct Call {
  Dtype dtype = Dtype::bf16;
  Format format = Format::none;  // what they are quantized to; of FP8 codes it is known
  Layout layout = Layout::tensor;
  bool scale_is_inverse = false;  // `scale` is what codes are multiplied by (`_scale_inv`); always so for blocks
  bool histogram = false;
  std::int32_t step = -1;
};

// How many rows of a matrix are looked at where every n-th is: all of those that are small, since they cost next to
// nothing, and of narrow rows, of which single ones cannot be read apart.
std::int64_t rows_of_sample(std::int64_t rows, std::int64_t columns, std::int64_t every);
// Every n-th row of a tensor with one scale; of blocks with scales of their own, all.
Tensor sample_of(const Tensor& tensor, Layout layout, std::int64_t every);

constexpr std::size_t most_tensors = 64;  // of one launch; a call of more makes several

// Calls by what became of their tensors.
struct Skipped {
  std::int64_t captured = 0;  // the stream was being captured into a graph
  std::int64_t full = 0;      // the ring had no room: steps are not taken fast enough, or one has more tensors
  std::int64_t failed = 0;    // the driver refused
  int last_error = 0;         // the CUresult of the last of those; 0 where there was none
};

// Makes a ring of `rows` rows on the device, with histograms of 8 KiB each if asked for. Its primary context must be
// active. Throws where kernels were left out of the build or cannot be loaded, and when it is open already.
void open(int device, std::size_t rows, bool histograms, const std::string& library);
bool is_open(int device);
// Waits for what was launched; what was not taken is lost.
void close(int device);

// The order of the first of these tensors, the others' follow; -1 where the call was skipped, and counted as such.
// Empty tensors get a row too. `stream` is a CUstream, 0 the legacy default stream.
std::int64_t observe(int device, void* stream, const Tensor* tensors, std::size_t count, const Call& call);
// Begins the copy of the rows observed since the last time.
void end_step(int device);

struct Taken {
  std::vector<Row> rows;
  PackedBins bins;  // of rows with the flag
};
// What the device is through with, without waiting; in order.
Taken take(int device);
// Waits until all that was observed can be taken.
void wait(int device);
Skipped skipped(int device);

}  // namespace tetrace::fp8
