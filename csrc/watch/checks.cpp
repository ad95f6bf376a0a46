#include "watch/checks.h"

#include <array>
#include <utility>
#include <vector>

#include "ranges/stack.h"
#include "watch/observing.h"
#include "watch/tensors.h"

namespace tetrace::watch {
namespace {

constexpr std::int32_t not_asked = -2;

PyObject* ask_site = nullptr;
PyObject* check_in_python = nullptr;

// By the site of a module's forward.
std::vector<std::int32_t>& rows_of_outputs() {
  static auto* sites = new std::vector<std::int32_t>;
  return *sites;
}

// The tensor that this thread checked last: what returns it next, from a range around, only passes it on. Its memory may
// be another's by then, or have been written to, so the address alone does not tell.
struct Last {
  const void* data = nullptr;
  std::int64_t elements = 0;
  std::int64_t depth = 0;
  std::int64_t version = -1;   // -1: it has none, as in inference mode
  PyObject* tensor = nullptr;  // a weak reference, given up by its thread alone
};

thread_local Last last;

void let_python_check(std::int32_t site, PyObject* tensor) {
  if (check_in_python == nullptr) return;
  PyObject* done = PyObject_CallFunction(check_in_python, "iO", site, tensor);
  if (done == nullptr) PyErr_WriteUnraisable(check_in_python);
  Py_XDECREF(done);
}

std::int32_t rows_of(std::int32_t module_site) {
  auto& known = rows_of_outputs();
  const auto place = static_cast<std::size_t>(module_site);
  if (known.size() <= place) known.resize(place + 1, not_asked);
  if (known[place] != not_asked || ask_site == nullptr) return known[place];
  PyObject* site = PyObject_CallFunction(ask_site, "i", module_site);
  // None: inspection has just switched itself off.
  const long number = site == nullptr || site == Py_None ? -1 : PyLong_AsLong(site);
  Py_XDECREF(site);
  if (PyErr_Occurred()) PyErr_WriteUnraisable(ask_site);
  return rows_of_outputs()[place] = static_cast<std::int32_t>(number);
}

constexpr int deepest = 4;  // a list may hold itself

// The first tensor of what a module returns: tuples, lists and dictionaries, of which some libraries' outputs are.
PyObject* tensor_in(PyObject* result, int depth = 0) {
  if (is_plain(result)) return result;
  if (depth == deepest) return nullptr;
  PyObject* found = nullptr;
  if (PyTuple_Check(result) || PyList_Check(result)) {
    for (Py_ssize_t place = 0; found == nullptr && place < PySequence_Fast_GET_SIZE(result); ++place) {
      found = tensor_in(PySequence_Fast_GET_ITEM(result, place), depth + 1);
    }
  } else if (PyDict_Check(result)) {
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t place = 0; found == nullptr && PyDict_Next(result, &place, &key, &value) != 0;) {
      found = tensor_in(value, depth + 1);
    }
  }
  return found;
}

// False where it has to be looked at in Python.
bool fill(PyObject* tensor, std::int32_t site, fp8::Tensor* filled, fp8::Dtype* dtype) {
  if (!find_dtype(tensor, dtype) || !is_dense_on(tensor, current_device()) || !count_elements(tensor, &filled->columns) ||
      !find_address(tensor, &filled->data)) {
    return false;
  }
  filled->rows = 1;
  filled->row_stride = filled->columns;
  filled->site = site;
  return true;
}

bool send_all(const std::vector<fp8::Tensor>& tensors, fp8::Dtype dtype) {
  fp8::Call call;
  call.dtype = dtype;
  return tensors.empty() || send(tensors.data(), tensors.size(), call) != elsewhere;
}

bool is_alive(PyObject* reference) {
  if (reference == nullptr) return false;
  const Held tensor(PyObject_CallNoArgs(reference));
  return static_cast<bool>(tensor);
}

bool is_same(const Last& now, const Last& before) {
  return now.data == before.data && now.elements == before.elements && now.version == before.version &&
         is_alive(before.tensor);
}

bool is_passed_on(PyObject* tensor) {
  Last now;
  now.depth = ranges::depth();
  if (!find_address(tensor, &now.data) || !count_elements(tensor, &now.elements)) return false;
  if (!find_version(tensor, &now.version)) now.version = -1;
  const bool same = now.depth < last.depth && is_same(now, last);
  now.tensor = PyWeakref_NewRef(tensor, nullptr);
  if (now.tensor == nullptr) PyErr_Clear();
  Py_XDECREF(std::exchange(last, now).tensor);
  return same;
}

}  // namespace

void set_checks(PyObject* ask, PyObject* check) {
  Py_XSETREF(ask_site, Py_XNewRef(ask));
  Py_XSETREF(check_in_python, Py_XNewRef(check));
}

void forget_outputs() { rows_of_outputs().clear(); }

void check_output(std::int32_t module_site, PyObject* result) {
  if (!is_watching.load(std::memory_order_relaxed) || module_site < 0) return;
  PyObject* tensor = tensor_in(result);
  if (tensor == nullptr || is_passed_on(tensor)) return;
  const std::int32_t site = rows_of(module_site);
  if (site < 0) return;
  fp8::Tensor filled;
  fp8::Call call;
  if (!fill(tensor, site, &filled, &call.dtype) || send(&filled, 1, call) == elsewhere) let_python_check(site, tensor);
}

void check_tensors(PyObject* sites, PyObject* tensors) {
  if (!is_watching.load(std::memory_order_relaxed)) return;
  constexpr std::size_t kinds = 3;
  std::array<std::vector<fp8::Tensor>, kinds> found;
  std::array<std::vector<Py_ssize_t>, kinds> places;
  for (Py_ssize_t place = 0; place < PyList_GET_SIZE(tensors) && place < PyList_GET_SIZE(sites); ++place) {
    PyObject* tensor = PyList_GET_ITEM(tensors, place);
    const auto site = static_cast<std::int32_t>(PyLong_AsLong(PyList_GET_ITEM(sites, place)));
    fp8::Tensor filled;
    fp8::Dtype dtype;
    if (!fill(tensor, site, &filled, &dtype)) {
      let_python_check(site, tensor);
      continue;
    }
    found[static_cast<std::size_t>(dtype)].push_back(filled);
    places[static_cast<std::size_t>(dtype)].push_back(place);
  }
  for (std::size_t kind = 0; kind < kinds; ++kind) {
    if (send_all(found[kind], static_cast<fp8::Dtype>(kind))) continue;
    for (const Py_ssize_t place : places[kind]) {
      const auto site = static_cast<std::int32_t>(PyLong_AsLong(PyList_GET_ITEM(sites, place)));
      let_python_check(site, PyList_GET_ITEM(tensors, place));
    }
  }
}

}  // namespace tetrace::watch
