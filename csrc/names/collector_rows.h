// The layouts of csrc/collector/rows.h, for those who read its files without this extension.
#pragma once

#include <pybind11/pybind11.h>

namespace tetrace::names {

// Name of a row -> (kind, bytes, [(field, offset, numpy's word for its type)]).
pybind11::dict collector_rows();

}  // namespace tetrace::names
