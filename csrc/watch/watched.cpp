#include "watch/watched.h"

#include <deque>
#include <utility>

#include "watch/observing.h"
#include "watch/tensors.h"

namespace tetrace::watch {
namespace {

// All under the interpreter's lock. References to entries stay good while others are added.
std::deque<Watched>& all() {
  static auto* watched = new std::deque<Watched>;
  return *watched;
}

PyObject* slow_observer = nullptr;

// Borrowed; null where the result has no such part.
PyObject* part_of(PyObject* result, Py_ssize_t place) {
  if (place < 0) return result;
  if (PyList_Check(result) && place < PyList_GET_SIZE(result)) return PyList_GET_ITEM(result, place);
  if (PyTuple_Check(result) && place < PyTuple_GET_SIZE(result)) return PyTuple_GET_ITEM(result, place);
  return nullptr;
}

bool fill(const Watched& known, PyObject* observed, PyObject* scaled, fp8::Tensor* tensor) {
  Facts facts;
  if (!read_facts(observed, &facts) || !facts.is_dense_on(current_device())) return false;
  const std::int64_t elements = facts.elements;
  tensor->data = facts.data;
  tensor->site = known.site;
  const bool in_rows = known.width > 0 && elements % known.width == 0;
  tensor->columns = known.columns > 0 ? known.columns : in_rows ? known.width : elements;
  if (tensor->columns > 0 && elements % tensor->columns != 0) return false;
  tensor->rows = tensor->columns > 0 ? elements / tensor->columns : 0;
  tensor->row_stride = tensor->columns;
  tensor->scale_stride = known.scale_stride;
  *tensor = fp8::sample_of(*tensor, known.call.layout, rows_apart.load(std::memory_order_relaxed));
  if (known.scale_of == ScaleOf::nothing) return true;
  const Held scale = attribute(scaled, known.scale);
  Facts of_scale;
  if (!scale || !read_facts(scale.get(), &of_scale)) return false;
  tensor->scale = of_scale.data;
  return true;
}

// Attributes may run Python, and another thread learn the call anew meanwhile.
bool has_signs(const Watched& known, PyObject* made) {
  const Held signs(Py_XNewRef(known.signs));
  for (Py_ssize_t place = 0; signs && place < PyTuple_GET_SIZE(signs.get()); ++place) {
    PyObject* sign = PyTuple_GET_ITEM(signs.get(), place);
    const Held now = attribute(made, PyTuple_GET_ITEM(sign, 0));
    const int same = now.get() == nullptr ? 0 : PyObject_RichCompareBool(now.get(), PyTuple_GET_ITEM(sign, 1), Py_EQ);
    if (same < 0) PyErr_Clear();
    if (same != 1) return false;
  }
  return true;
}

bool observe_on_device(const Watched& known, PyObject* args, Py_ssize_t place, PyObject* result) {
  PyObject* made = part_of(result, known.result);
  if (made == nullptr || PyTuple_GET_SIZE(args) <= place || !has_signs(known, made)) return false;
  PyObject* scaled = known.scale_of == ScaleOf::quantizer ? PyTuple_GET_ITEM(args, place) : made;
  fp8::Tensor tensor;
  if (known.data != nullptr) {
    const Held codes = attribute(made, known.data);
    return codes && fill(known, codes.get(), scaled, &tensor) && send(&tensor, 1, known.call) != elsewhere;
  }
  return fill(known, PyTuple_GET_ITEM(args, 0), scaled, &tensor) && send(&tensor, 1, known.call) != elsewhere;
}

void ask_python(std::int32_t number, PyObject* args, PyObject* named, PyObject* result) {
  if (slow_observer == nullptr) return;
  PyObject* given = PyLong_FromLong(number);
  PyObject* done = given == nullptr ? nullptr
                                    : PyObject_CallFunctionObjArgs(slow_observer, given, args,
                                                                   named == nullptr ? Py_None : named, result, nullptr);
  if (done == nullptr) PyErr_WriteUnraisable(slow_observer);  // tetrace's own: it must not reach the script
  Py_XDECREF(done);
  Py_XDECREF(given);
}

}  // namespace

std::int32_t add_watched() {
  all().emplace_back();
  return static_cast<std::int32_t>(all().size() - 1);
}

Watched* find_watched(std::int32_t number) {
  const auto place = static_cast<std::size_t>(number);
  return number >= 0 && place < all().size() ? &all()[place] : nullptr;
}

void learn_watched(Watched& known, const Watched& learned) {
  PyObject* before = known.signs;
  known = learned;  // words are interned, and stay
  Py_XDECREF(before);
}

void forget_watched() {
  const std::deque<Watched> forgotten = std::exchange(all(), {});
  for (const Watched& one : forgotten) {
    Py_XDECREF(one.data);
    Py_XDECREF(one.scale);
    Py_XDECREF(one.signs);
  }
}

void set_slow(PyObject* slow) { Py_XSETREF(slow_observer, Py_XNewRef(slow)); }

void observe_call(std::int32_t number, PyObject* args, PyObject* named, Py_ssize_t place, PyObject* result) {
  if (!is_watching.load(std::memory_order_relaxed)) return;
  const Watched* known = find_watched(number);
  if (known == nullptr || known->how == How::nobody) return;
  if (known->how == How::device && observe_on_device(*known, args, place, result)) return;
  ask_python(number, args, named, result);
}

}  // namespace tetrace::watch
