#include "watch/checks.h"

#include <algorithm>
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

struct Words {
  PyObject* local = interned("_local_tensor");
  PyObject* fields = interned("__dataclass_fields__");
};

const Words& words() {
  static const auto* all = new Words;
  return *all;
}

// The fields of a dataclass, by name; null for another object.
PyObject* fields_of(PyObject* object) {
  PyObject* fields = _PyType_Lookup(Py_TYPE(object), words().fields);
  return fields != nullptr && PyDict_Check(fields) ? fields : nullptr;
}

// The first tensor of what a module returns: tuples, lists, dictionaries, of which some libraries' outputs are, and
// dataclasses. Of a DTensor it is what is here. Borrowed: what is returned holds it.
PyObject* tensor_in(PyObject* result, int depth = 0) {
  if (is_plain(result)) return result;
  if (depth == deepest) return nullptr;
  if (is_tensor(result)) {
    const Held local = stored(result, words().local);
    return local && is_plain(local.get()) ? local.get() : nullptr;
  }
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
  } else if (PyObject* fields = fields_of(result)) {
    PyObject *name = nullptr, *field = nullptr;
    for (Py_ssize_t place = 0; found == nullptr && PyDict_Next(fields, &place, &name, &field) != 0;) {
      const Held value = stored(result, name);
      if (value) found = tensor_in(value.get(), depth + 1);
    }
  }
  return found;
}

// False where it has to be looked at in Python.
bool can_observe(const Facts& facts) { return facts.dtype >= 0 && facts.is_dense_on(current_device()); }

fp8::Tensor filled(const Facts& facts, std::int32_t site) {
  fp8::Tensor tensor;
  tensor.data = facts.data;
  tensor.rows = 1;
  tensor.columns = tensor.row_stride = facts.elements;
  tensor.site = site;
  return tensor;
}

// Tensors of one number type each, and their places in a list.
class Launches {
 public:
  void add(const Facts& facts, std::int32_t site, Py_ssize_t place) {
    Launch& one = launches_[static_cast<std::size_t>(facts.dtype)];
    one.tensors.push_back(filled(facts, site));
    one.places.push_back(place);
  }

  // Calls `left(place)` for those that could not be sent.
  template <class Left>
  void send_all(const Left& left) const {
    for (std::size_t kind = 0; kind < kinds; ++kind) {
      const Launch& one = launches_[kind];
      fp8::Call call;
      call.dtype = static_cast<fp8::Dtype>(kind);
      if (one.tensors.empty() || send(one.tensors.data(), one.tensors.size(), call) != elsewhere) continue;
      for (const Py_ssize_t place : one.places) left(place);
    }
  }

 private:
  struct Launch {
    std::vector<fp8::Tensor> tensors;
    std::vector<Py_ssize_t> places;
  };
  static constexpr std::size_t kinds = 3;
  std::array<Launch, kinds> launches_;
};

std::int32_t site_at(PyObject* sites, Py_ssize_t place) {
  return static_cast<std::int32_t>(PyLong_AsLong(PyList_GET_ITEM(sites, place)));
}

Py_ssize_t common_length(PyObject* one, PyObject* other) {
  return std::min(PyList_GET_SIZE(one), PyList_GET_SIZE(other));
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

bool is_passed_on(PyObject* tensor, const Facts& facts) {
  Last now{facts.data, facts.elements, ranges::depth(), facts.version, nullptr};
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
  if (tensor == nullptr) return;
  Facts facts;
  const bool told = read_facts(tensor, &facts);
  if (told && is_passed_on(tensor, facts)) return;
  const std::int32_t site = rows_of(module_site);
  if (site < 0) return;
  if (told && can_observe(facts)) {
    const fp8::Tensor one = filled(facts, site);
    fp8::Call call;
    call.dtype = static_cast<fp8::Dtype>(facts.dtype);
    if (send(&one, 1, call) != elsewhere) return;
  }
  let_python_check(site, tensor);
}

void check_tensors(PyObject* sites, PyObject* tensors) {
  if (!is_watching.load(std::memory_order_relaxed)) return;
  Launches launches;
  const auto let_python = [&](Py_ssize_t place) { let_python_check(site_at(sites, place), PyList_GET_ITEM(tensors, place)); };
  for (Py_ssize_t place = 0; place < common_length(sites, tensors); ++place) {
    Facts facts;
    if (read_facts(PyList_GET_ITEM(tensors, place), &facts) && can_observe(facts)) {
      launches.add(facts, site_at(sites, place), place);
    } else {
      let_python(place);
    }
  }
  launches.send_all(let_python);
}

// Gradients stay while they are launched for: the optimizer, which is about to read them, has the parameters.
std::vector<Py_ssize_t> check_parameters(PyObject* sites, PyObject* parameters, bool of_gradients) {
  std::vector<Py_ssize_t> left;
  if (!is_watching.load(std::memory_order_relaxed)) return left;
  Launches launches;
  for (Py_ssize_t place = 0; place < common_length(sites, parameters); ++place) {
    const std::int32_t site = site_at(sites, place);
    if (site < 0) continue;
    PyObject* one = PyList_GET_ITEM(parameters, place);
    Facts facts;
    const bool told = of_gradients ? read_gradient(one, &facts) : is_plain(one) && read_facts(one, &facts);
    if (told && can_observe(facts)) {
      launches.add(facts, site, place);
    } else {
      left.push_back(place);
    }
  }
  launches.send_all([&](Py_ssize_t place) { left.push_back(place); });
  return left;
}

}  // namespace tetrace::watch
