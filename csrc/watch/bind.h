// Python's side of what a recording observes of FP8.
#pragma once

#include <pybind11/pybind11.h>

namespace tetrace::watch {

void bind(pybind11::module_& module);

}  // namespace tetrace::watch
