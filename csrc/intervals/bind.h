#pragma once

#include <pybind11/pybind11.h>

namespace tetrace::intervals {

void bind(pybind11::module_& module);

}  // namespace tetrace::intervals
