#pragma once

#include <pybind11/pybind11.h>

namespace tetrace::ranges {

// Adds the type `annotate`. It is written against CPython itself, because a range from Python is to cost a fraction of a
// microsecond.
void bind_annotate(pybind11::module_& module);

}  // namespace tetrace::ranges
