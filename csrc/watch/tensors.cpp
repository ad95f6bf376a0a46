#include "watch/tensors.h"

#include <utility>
#include <vector>

#include "common/error.h"

namespace tetrace::watch {
namespace {

// Held for good: what is compared by address must stay where it is.
PyObject* tensor_class = nullptr;
PyObject* parameter_class = nullptr;
std::vector<std::pair<PyObject*, fp8::Dtype>> dtypes;
Reader reader = nullptr;

struct Words {
  PyObject* numel = interned("numel");
  PyObject* dtype = interned("dtype");
  PyObject* data_ptr = interned("data_ptr");
  PyObject* is_cuda = interned("is_cuda");
  PyObject* is_contiguous = interned("is_contiguous");
  PyObject* get_device = interned("get_device");
  PyObject* version = interned("_version");
};

const Words& words() {
  static const auto* all = new Words;
  return *all;
}

bool to_integer(PyObject* number, std::int64_t* found) {
  if (number != nullptr) *found = PyLong_AsLongLong(number);
  Py_XDECREF(number);
  if (!PyErr_Occurred()) return true;
  PyErr_Clear();
  return false;
}

bool call_for_integer(PyObject* tensor, PyObject* method, std::int64_t* found) {
  return to_integer(PyObject_CallMethodNoArgs(tensor, method), found);
}

std::int32_t find_dtype(PyObject* tensor) {
  const Held dtype(PyObject_GetAttr(tensor, words().dtype));
  for (const auto& [object, known] : dtypes) {
    if (object == dtype.get()) return static_cast<std::int32_t>(known);
  }
  return -1;
}

std::int32_t find_device(PyObject* tensor) {
  const Held on_device(PyObject_GetAttr(tensor, words().is_cuda));
  std::int64_t number = -1;
  if (on_device.get() == Py_True && !call_for_integer(tensor, words().get_device, &number)) return -1;
  return static_cast<std::int32_t>(number);
}

bool is_contiguous(PyObject* tensor) {
  const Held dense(PyObject_CallMethodNoArgs(tensor, words().is_contiguous));
  return dense.get() == Py_True;
}

bool ask_for_facts(PyObject* tensor, Facts* facts) {
  std::int64_t address = 0;
  if (!call_for_integer(tensor, words().data_ptr, &address) || !call_for_integer(tensor, words().numel, &facts->elements)) {
    return false;
  }
  facts->data = reinterpret_cast<const void*>(address);
  if (!to_integer(PyObject_GetAttr(tensor, words().version), &facts->version)) facts->version = -1;
  facts->device = find_device(tensor);
  if (facts->device < 0) return true;  // Python looks at it, and asks for the rest
  facts->dtype = find_dtype(tensor);
  facts->is_dense = is_contiguous(tensor) ? 1 : 0;
  return true;
}

}  // namespace

PyObject* interned(const char* text) {
  PyObject* word = PyUnicode_InternFromString(text);
  if (word == nullptr) refuse(text, ": no memory for a word");
  return word;
}

void set_types(PyObject* tensor, PyObject* parameter, PyObject* known) {
  Py_XSETREF(tensor_class, Py_NewRef(tensor));
  Py_XSETREF(parameter_class, Py_NewRef(parameter));
  for (const auto& [object, dtype] : dtypes) Py_DECREF(object);
  dtypes.clear();
  for (Py_ssize_t place = 0; place < PyList_Size(known); ++place) {
    PyObject* pair = PyList_GET_ITEM(known, place);
    const long number = PyLong_AsLong(PyTuple_GetItem(pair, 1));
    dtypes.emplace_back(Py_NewRef(PyTuple_GetItem(pair, 0)), static_cast<fp8::Dtype>(number));
  }
}

bool is_plain(PyObject* object) {
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  return type == tensor_class || type == parameter_class;
}

bool is_tensor(PyObject* object) {
  return tensor_class != nullptr && PyType_IsSubtype(Py_TYPE(object), reinterpret_cast<PyTypeObject*>(tensor_class)) != 0;
}

void set_reader(Reader given) { reader = given; }

bool read_facts(PyObject* tensor, Facts* facts) {
  return (reader != nullptr && is_plain(tensor) && reader(tensor, 0, facts) != 0) || ask_for_facts(tensor, facts);
}

bool read_gradient(PyObject* parameter, Facts* facts) {
  return reader != nullptr && is_plain(parameter) && reader(parameter, 1, facts) != 0;
}

Held attribute(PyObject* object, PyObject* name) { return Held(PyObject_GetAttr(object, name)); }

Held stored(PyObject* object, PyObject* name) {
  PyObject* of_type = _PyType_Lookup(Py_TYPE(object), name);
  const bool is_computed = of_type != nullptr && Py_TYPE(of_type)->tp_descr_get != nullptr && Py_TYPE(of_type) != &PyMemberDescr_Type;
  return Held(is_computed ? nullptr : PyObject_GenericGetAttr(object, name));
}

}  // namespace tetrace::watch
