// Functions of Python that open a range around each call, and find its site without going through Python.
//
// A call is known by what is cheap to read of its arguments: objects by address, tensors by their number of elements.
// Only a call that was not seen before asks Python what it is.
#pragma once

#include <pybind11/pybind11.h>

namespace tetrace::ranges {

void bind_calls(pybind11::module_& module);

}  // namespace tetrace::ranges
