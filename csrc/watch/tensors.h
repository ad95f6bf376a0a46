// Tensors of torch, read through their methods: tetrace._C is built without torch's headers. The interpreter's lock is
// held. Where a tensor does not answer, the functions return false, and no error is left set.
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
bool find_dtype(PyObject* tensor, fp8::Dtype* found);
bool find_address(PyObject* tensor, const void** found);
bool count_elements(PyObject* tensor, std::int64_t* found);
// How often it was written to in place; views count with what they are views of.
bool find_version(PyObject* tensor, std::int64_t* found);
// On this device, and its elements follow each other.
bool is_dense_on(PyObject* tensor, int device);

// The attribute `name` (interned) of an object.
Held attribute(PyObject* object, PyObject* name);
PyObject* interned(const char* text);

}  // namespace tetrace::watch
