// Tensors of torch, read by a function that was built with torch's headers (tetrace/instrument/csrc/observer.cpp), else
// through their methods: tetrace._C is built without. The interpreter's lock is held. Where a tensor does not answer, the
// functions return false, and no error is left set.
#pragma once

#include <Python.h>

#include <cstdint>

#include "fp8/inspector.h"

namespace tetrace::watch {

// A reference that is given back.
class Held {
 public:
  explicit Held(PyObject* object) : object_(object) {
    if (object == nullptr) PyErr_Clear();
  }
  ~Held() { Py_XDECREF(object_); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  PyObject* get() const { return object_; }
  explicit operator bool() const { return object_ != nullptr && object_ != Py_None; }

 private:
  PyObject* object_;
};

// Torch's class of tensors, and the number types that are known, (object, Dtype) each.
void set_types(PyObject* tensor, PyObject* parameter, PyObject* dtypes);

// Of exactly torch's class, or a parameter: subclasses may stand for anything.
bool is_plain(PyObject* object);

// Of torch's class, a parameter, or a subclass.
bool is_tensor(PyObject* object);

// What an observation needs to know of a tensor. The layout of observer.cpp.
struct Facts {
  const void* data = nullptr;
  std::int64_t elements = 0;
  std::int64_t version = -1;  // how often it was written to in place, views with what they are views of; -1: not told
  std::int32_t dtype = -1;    // an fp8::Dtype; -1: none of them
  std::int32_t device = -1;   // -1: not a GPU
  std::int32_t is_dense = 0;  // on a GPU, with its elements one after the other

  // What was freed, such as a parameter that is sharded away, has elements and no address.
  bool is_dense_on(int number) const { return is_dense != 0 && device == number && (data != nullptr || elements == 0); }
};
static_assert(sizeof(Facts) == 40, "observer.cpp has the same");

// Facts of a plain tensor, or of its gradient; 0 where torch's methods must be asked. Null: there is none.
using Reader = int (*)(void* tensor, int of_gradient, Facts* facts);
void set_reader(Reader reader);

bool read_facts(PyObject* tensor, Facts* facts);
// By the reader alone: false where there is none, or no gradient.
bool read_gradient(PyObject* parameter, Facts* facts);

// The attribute `name` (interned) of an object.
Held attribute(PyObject* object, PyObject* name);
PyObject* interned(const char* text);
// What an object holds under `name` (interned), in its dictionary or in a slot: no property and no `__getattr__` is run.
Held stored(PyObject* object, PyObject* name);

}  // namespace tetrace::watch
