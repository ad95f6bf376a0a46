#pragma once

#include <pybind11/pybind11.h>

namespace tetrace::timing {

void bind(pybind11::module_& module);

}  // namespace tetrace::timing
