#include "fp8/bind.h"

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "fp8/inspect.h"
#include "fp8/inspector.h"
#include "fp8/kernels.h"
#include "fp8/packed_bins.h"
#include "timing/bind.h"

namespace py = pybind11;
using namespace py::literals;

namespace tetrace::fp8 {
namespace {

enum CallFlags { with_histogram = 1, scale_is_inverse = 2 };

Call call_of(int dtype, int step, int format, int layout, int flags) {
  Call call;
  call.dtype = static_cast<Dtype>(dtype);
  call.format = static_cast<Format>(format);
  call.layout = static_cast<Layout>(layout);
  call.scale_is_inverse = (flags & scale_is_inverse) != 0;
  call.histogram = (flags & with_histogram) != 0;
  call.step = step;
  return call;
}

std::vector<Tensor> tensors_of(const py::list& list) {
  std::vector<Tensor> tensors;
  tensors.reserve(list.size());
  for (const py::handle item : list) {
    const auto fields = item.cast<py::tuple>();
    if (fields.size() != 7) refuse("a tensor of ", fields.size(), " fields; give 7");
    Tensor one;
    one.data = PyLong_AsVoidPtr(fields[0].ptr());
    one.rows = PyLong_AsLongLong(fields[1].ptr());
    one.columns = PyLong_AsLongLong(fields[2].ptr());
    one.row_stride = PyLong_AsLongLong(fields[3].ptr());
    one.site = static_cast<std::int32_t>(PyLong_AsLongLong(fields[4].ptr()));
    one.scale = PyLong_AsVoidPtr(fields[5].ptr());
    one.scale_stride = PyLong_AsLongLong(fields[6].ptr());
    if (PyErr_Occurred()) throw py::error_already_set();
    tensors.push_back(one);
  }
  return tensors;
}

Stream stream_of(std::uintptr_t handle) { return reinterpret_cast<Stream>(handle); }

std::int64_t observe_tensors(int device, std::uintptr_t stream, const py::list& list, int dtype, int step, int format,
                             int layout, int flags) {
  const std::vector<Tensor> tensors = tensors_of(list);
  return observe(device, stream_of(stream), tensors.data(), tensors.size(), call_of(dtype, step, format, layout, flags));
}

template <class T>
py::bytes bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

py::tuple as_bytes(const Taken& taken) { return py::make_tuple(bytes_of(taken.rows), bytes_of(taken.bins)); }

py::bytes unpacked_bins(const py::bytes& packed, bool is_cut) {
  const std::string_view bytes = packed;
  std::vector<std::uint32_t> words(bytes.size() / sizeof(std::uint32_t));
  std::memcpy(words.data(), bytes.data(), words.size() * sizeof(std::uint32_t));
  return bytes_of(unpack_bins(words.data(), words.size(), is_cut));
}

py::tuple take_rows(int device) { return as_bytes(take(device)); }

py::tuple inspect_tensors(int device, std::uintptr_t stream, const py::list& list, int dtype, int format, int layout,
                          int flags, const std::string& library) {
  const std::vector<Tensor> tensors = tensors_of(list);
  const Call call = call_of(dtype, -1, format, layout, flags);
  Taken taken;
  {
    const py::gil_scoped_release unlocked;
    taken = inspect(device, stream_of(stream), tensors.data(), tensors.size(), call, library);
  }
  return as_bytes(taken);
}

py::dict skipped_tensors(int device) {
  const Skipped now = skipped(device);
  return py::dict("captured"_a = now.captured, "full"_a = now.full, "failed"_a = now.failed,
                  "last_error"_a = now.last_error);
}

void open_ring(int device, std::size_t rows, bool histograms, const std::string& library) {
  timing::know_interpreter();
  open(device, rows, histograms, library);
}

// Name, offset and numpy's word for the type of each field.
py::tuple row_layout() {
  py::list fields;
  const auto add = [&](const char* name, std::size_t offset, const char* type) {
    fields.append(py::make_tuple(name, offset, type));
  };
#define FIELD(name, type) add(#name, offsetof(Row, name), type)
  FIELD(order, "<i8");
  FIELD(elements, "<u8");
  FIELD(zeros, "<u8");
  FIELD(nans, "<u8");
  FIELD(infs, "<u8");
  FIELD(saturated, "<u8");
  FIELD(flushed, "<u8");
  FIELD(subnormal, "<u8");
  FIELD(sum, "<f8");
  FIELD(square_sum, "<f8");
  FIELD(squared_error, "<f8");
  FIELD(site, "<i4");
  FIELD(step, "<i4");
  FIELD(amax, "<f4");
  FIELD(smallest, "<f4");
  FIELD(scale, "<f4");
  FIELD(scale_min, "<f4");
  FIELD(scale_max, "<f4");
  FIELD(flags, "<u4");
  FIELD(whole, "<u8");
#undef FIELD
  return py::make_tuple(sizeof(Row), fields);
}

}  // namespace

void bind(py::module_& module) {
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  module.def("fp8_row", &row_layout);
  module.def("fp8_rows_of_sample", &rows_of_sample, "rows"_a, "columns"_a, "every"_a);
  module.def("fp8_open", &open_ring, "device"_a, "rows"_a, "histograms"_a = false, "library"_a = "libcuda.so.1");
  module.def("fp8_is_open", &is_open, "device"_a);
  module.def("fp8_close", &close, unlocked, "device"_a);
  module.def("fp8_observe", &observe_tensors, "device"_a, "stream"_a, "tensors"_a, "dtype"_a, "step"_a, "format"_a = 0,
             "layout"_a = 0, "flags"_a = 0);
  module.def("fp8_end_step", &end_step, "device"_a);
  module.def("fp8_take", &take_rows, "device"_a);
  module.def("fp8_unpack_bins", &unpacked_bins, "packed"_a, "is_cut"_a = false);
  module.def("fp8_wait", &wait, "device"_a);
  module.def("fp8_skipped", &skipped_tensors, "device"_a);
  module.def("fp8_inspect", &inspect_tensors, "device"_a, "stream"_a, "tensors"_a, "dtype"_a, "format"_a = 0,
             "layout"_a = 0, "flags"_a = 0, "library"_a = "libcuda.so.1");
}

}  // namespace tetrace::fp8
