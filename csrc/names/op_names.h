// Texts of NVTX ranges: what PyTorch's emit_nvtx adds to an operator's name is cut off, the rest dictionary-encoded.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/span.h"

namespace tetrace::names {

constexpr std::int64_t no_sequence = -1;

struct OpName {
  std::string_view name;
  std::int64_t sequence = no_sequence;
};

// The name and autograd sequence number of a text such as
//   aten::mm, seq = 12, op_id = 40, sizes = [[2, 3], []], input_op_ids = [(38,0), (39,0)]
// (torch/csrc/profiler/util.cpp, getNvtxStr; each field may be absent). A text that goes on in any other way is all
// name: `loss, seq = high`.
OpName parse_op_name(std::string_view text);

// For tables of texts; not the same on every machine.
std::uint64_t hash(std::string_view text);

struct EncodedNames {
  Column<std::int32_t> codes;
  Column<std::int64_t> sequence;
  std::vector<std::string_view> words;  // in order of first use; views into the data
};

// Text i is data[offsets[i], offsets[i + 1]). Throws when offsets descend or leave the data.
template <class Offset>
EncodedNames encode(Span<Offset> offsets, Span<std::uint8_t> data);

}  // namespace tetrace::names
