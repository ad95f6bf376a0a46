#pragma once

#include <pybind11/pybind11.h>

namespace tetrace::build {

void bind(pybind11::module_& module);

}  // namespace tetrace::build
