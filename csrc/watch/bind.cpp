#include "watch/bind.h"

#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "common/error.h"
#include "watch/checks.h"
#include "watch/observing.h"
#include "watch/tensors.h"
#include "watch/watched.h"

namespace py = pybind11;
using namespace py::literals;

namespace tetrace::watch {
namespace {

// Called after every forward of a module: bound by hand, as pybind11's dispatch takes longer than what it does.
PyObject* call_check_output(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 2) return PyErr_Format(PyExc_TypeError, "watch_output takes a site and a result, got %zd values", count);
  const long site = PyLong_AsLong(args[0]);
  if (site == -1 && PyErr_Occurred()) return nullptr;
  check_output(static_cast<std::int32_t>(site), args[1]);
  Py_RETURN_NONE;
}

PyMethodDef fast[] = {
    {"watch_output", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_check_output)), METH_FASTCALL,
     nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyObject* or_null(const py::object& object) { return object.is_none() ? nullptr : object.ptr(); }

void prepare(const py::object& slow, const py::object& ask, const py::object& check, const py::object& tensor,
             const py::object& parameter, const py::list& dtypes, bool histogram, std::int64_t rows) {
  if (rows < 1) refuse("every ", rows, "th row; give 1 for all, or more");
  set_types(tensor.ptr(), parameter.ptr(), dtypes.ptr());
  set_slow(or_null(slow));
  set_checks(or_null(ask), or_null(check));
  with_histogram = histogram;
  rows_apart = rows;
  begin();
}

void end() {
  close_devices();
  set_slow(nullptr);
  set_reader(nullptr);
  set_checks(nullptr, nullptr);
  forget_watched();
  forget_outputs();
}

PyObject* word_of(const std::string& text) { return text.empty() ? nullptr : interned(text.c_str()); }

ScaleOf scale_of(const std::string& word) {
  if (word.empty()) return ScaleOf::nothing;
  if (word == "quantizer") return ScaleOf::quantizer;
  if (word == "result") return ScaleOf::result;
  refuse("scale_of is '", word, "'; give quantizer, result or nothing");
}

How how_of(const std::string& word) {
  if (word == "device") return How::device;
  if (word == "python") return How::python;
  if (word == "nobody") return How::nobody;
  refuse("how is '", word, "'; give device, python or nobody");
}

fp8::Call call_of(int dtype, int format, int layout, bool inverse, bool histogram) {
  if (dtype < 0 || dtype > 4) refuse("dtype is ", dtype, "; give 0 to 4");
  if (format < 0 || format > 2) refuse("format is ", format, "; give 0 to 2");
  if (layout < 0 || layout > 3) refuse("layout is ", layout, "; give 0 to 3");
  fp8::Call call;
  call.dtype = static_cast<fp8::Dtype>(dtype);
  call.format = static_cast<fp8::Format>(format);
  call.layout = static_cast<fp8::Layout>(layout);
  call.scale_is_inverse = inverse;
  call.histogram = histogram && with_histogram.load(std::memory_order_relaxed);
  return call;
}

void learn(std::int32_t number, const std::string& how, std::int32_t site, int dtype, int format, int layout,
           bool inverse, bool histogram, Py_ssize_t result, const std::string& data, const std::string& scale,
           const std::string& of, std::int64_t columns, std::int64_t width, std::int64_t scale_stride,
           const py::tuple& signs) {
  Watched* known = find_watched(number);
  if (known == nullptr) refuse("nothing is watched under ", number, "; give what watch_add() returned");
  Watched learned;
  learned.how = how_of(how);
  learned.site = site;
  learned.call = call_of(dtype, format, layout, inverse, histogram);
  learned.result = result;
  learned.scale_of = scale_of(of);
  learned.columns = columns;
  learned.width = width;
  learned.scale_stride = scale_stride;
  learned.data = word_of(data);
  learned.scale = word_of(scale);
  for (const py::handle sign : signs) {
    if (!PyTuple_Check(sign.ptr()) || PyTuple_GET_SIZE(sign.ptr()) != 2) refuse("a sign is (attribute, what it must be)");
  }
  if (!signs.empty()) learned.signs = py::reinterpret_borrow<py::object>(signs).release().ptr();
  learn_watched(*known, learned);
}

// (address, rows, columns, row stride, site, address of the scale, its stride) of each tensor.
// Returns the order of the first, negative where nothing was launched.
std::int64_t observe(const std::vector<std::array<std::int64_t, 7>>& tensors, int dtype, int format, int layout,
                     bool inverse, bool histogram) {
  std::vector<fp8::Tensor> filled;
  for (const auto& one : tensors) {
    fp8::Tensor tensor;
    tensor.data = reinterpret_cast<const void*>(one[0]);
    tensor.rows = one[1];
    tensor.columns = one[2];
    tensor.row_stride = one[3];
    tensor.site = static_cast<std::int32_t>(one[4]);
    tensor.scale = reinterpret_cast<const void*>(one[5]);
    tensor.scale_stride = one[6];
    // What is checked for non-finite values alone is looked at whole.
    const std::int64_t every = format != 0 || histogram ? rows_apart.load(std::memory_order_relaxed) : 1;
    filled.push_back(fp8::sample_of(tensor, static_cast<fp8::Layout>(layout), every));
  }
  if (!is_watching || filled.empty()) return skipped;
  const std::int64_t order = send(filled.data(), filled.size(), call_of(dtype, format, layout, inverse, histogram));
  if (order == elsewhere) miss(filled.size());
  return order;
}

template <class T>
py::bytes bytes_of(const std::vector<T>& rows) {
  return {reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(T)};
}

py::tuple to_python(const fp8::Taken& taken) { return py::make_tuple(bytes_of(taken.rows), bytes_of(taken.bins)); }

py::dict count() {
  const Counts now = counts();
  return py::dict("observed"_a = now.observed, "taken"_a = now.taken, "captured"_a = now.captured, "full"_a = now.full,
                  "failed"_a = now.failed, "elsewhere"_a = now.elsewhere, "last_error"_a = now.last_error,
                  "refusal"_a = now.refusal);
}

void check(const py::list& sites, const py::list& tensors) { check_tensors(sites.ptr(), tensors.ptr()); }

std::vector<Py_ssize_t> check_all(const py::list& sites, const py::list& parameters, bool of_gradients) {
  return check_parameters(sites.ptr(), parameters.ptr(), of_gradients);
}

// `address` is that of a function of tetrace/instrument/csrc/observer.cpp; 0: none.
void read_by(std::uintptr_t address) { set_reader(reinterpret_cast<Reader>(address)); }

}  // namespace

void bind(py::module_& module) {
  if (PyModule_AddFunctions(module.ptr(), fast) != 0) throw py::error_already_set();
  module.def("watch_begin", &prepare, "slow"_a, "ask"_a, "check"_a, "tensor"_a, "parameter"_a, "dtypes"_a,
             "histogram"_a, "rows"_a = 1);
  module.def("watch_end", &end);
  module.def("watch_device", &open_device, "device"_a, "rows"_a, "histograms"_a, "library"_a = "libcuda.so.1");
  module.def("watch_current_device", &current_device);
  module.def("watch_switch", [](bool on) { is_watching = on; }, "on"_a);
  module.def("watch_is_on", [] { return is_watching.load(); });
  module.def("watch_add", &add_watched);
  module.def("watch_learn", &learn, "number"_a, "how"_a, "site"_a = -1, "dtype"_a = 0, "format"_a = 0, "layout"_a = 0,
             "inverse"_a = false, "histogram"_a = true, "result"_a = -1, "data"_a = "", "scale"_a = "",
             "scale_of"_a = "", "columns"_a = 0, "width"_a = 0, "scale_stride"_a = 0, "signs"_a = py::tuple());
  module.def("watch_observe", &observe, "tensors"_a, "dtype"_a, "format"_a = 0, "layout"_a = 0, "inverse"_a = false,
             "histogram"_a = true);
  module.def("watch_order", [] { return take_orders(1); });
  module.def("watch_check", &check, "sites"_a, "tensors"_a);
  module.def("watch_parameters", &check_all, "sites"_a, "parameters"_a, "of_gradients"_a);
  module.def("watch_reader", &read_by, "address"_a);
  module.def("watch_turn", [] { return to_python(turn()); });
  module.def("watch_take", [] { return to_python(take()); });
  module.def("watch_counts", &count);
  module.def("watch_has_failed", &has_failed);
}

}  // namespace tetrace::watch
