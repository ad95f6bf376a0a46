// Calls that quantize, and what is observed of each: known by a number once one like it was seen.
//
// Python learns a call from the first one's arguments and result; from then on only addresses are read here.
#pragma once

#include <Python.h>

#include <cstdint>

#include "fp8/inspector.h"

namespace tetrace::watch {

// Who observes the calls of a kind.
enum class How { python, device, nobody };
enum class ScaleOf { nothing, quantizer, result };

struct Watched {
  How how = How::python;
  std::int32_t site = -1;  // of the rows
  fp8::Call call;
  Py_ssize_t result = -1;     // place of the quantized tensor in the result; -1: it is the result
  PyObject* data = nullptr;   // where the codes are, if it is they that are observed
  PyObject* scale = nullptr;  // name of the attribute with the scale
  ScaleOf scale_of = ScaleOf::nothing;
  std::int64_t columns = 0;  // of the matrix; 0 where it does not matter
  std::int64_t width = 0;    // the last dimension, of whose rows some may be looked at
  std::int64_t scale_stride = 0;
  // A tuple of (attribute of the quantized tensor, what it must be): what a quantizer is told to make may change.
  PyObject* signs = nullptr;
};

// The number of a new kind of calls, which Python observes until it says otherwise.
std::int32_t add_watched();
Watched* find_watched(std::int32_t number);
// Takes over the references of `learned`.
void learn_watched(Watched& known, const Watched& learned);
void forget_watched();

// Python's observer: called with (number, args, named, result) of a call that is not, or cannot be, observed here.
void set_slow(PyObject* slow);

// After a call. `place` is that of the quantizer among the arguments.
void observe_call(std::int32_t number, PyObject* args, PyObject* named, Py_ssize_t place, PyObject* result);

}  // namespace tetrace::watch
