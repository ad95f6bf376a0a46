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

bool find_dtype(PyObject* tensor, fp8::Dtype* found) {
  const Held dtype(PyObject_GetAttr(tensor, words().dtype));
  for (const auto& [object, known] : dtypes) {
    if (object == dtype.get()) {
      *found = known;
      return true;
    }
  }
  return false;
}

bool find_address(PyObject* tensor, const void** found) {
  std::int64_t address = 0;
  if (!to_integer(PyObject_CallMethodNoArgs(tensor, words().data_ptr), &address)) return false;
  *found = reinterpret_cast<const void*>(address);
  return true;
}

bool count_elements(PyObject* tensor, std::int64_t* found) {
  return to_integer(PyObject_CallMethodNoArgs(tensor, words().numel), found);
}

bool find_version(PyObject* tensor, std::int64_t* found) {
  return to_integer(PyObject_GetAttr(tensor, words().version), found);
}

bool is_dense_on(PyObject* tensor, int device) {
  const Held on_device(PyObject_GetAttr(tensor, words().is_cuda));
  if (on_device.get() != Py_True) return false;
  std::int64_t own = -1;
  if (!to_integer(PyObject_CallMethodNoArgs(tensor, words().get_device), &own) || own != device) return false;
  const Held dense(PyObject_CallMethodNoArgs(tensor, words().is_contiguous));
  return dense.get() == Py_True;
}

Held attribute(PyObject* object, PyObject* name) { return Held(PyObject_GetAttr(object, name)); }

}  // namespace tetrace::watch
