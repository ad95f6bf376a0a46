#pragma once

#include <pybind11/pybind11.h>

namespace tetrace::timing {

void bind(pybind11::module_& module);
// From now on, what waits for the driver lets other threads of the interpreter run.
void know_interpreter();

}  // namespace tetrace::timing
