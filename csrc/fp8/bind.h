#pragma once

#include <pybind11/pybind11.h>

namespace tetrace::fp8 {

void bind(pybind11::module_& module);

}  // namespace tetrace::fp8
