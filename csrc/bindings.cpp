#include <pybind11/pybind11.h>

#include "intervals/bind.h"
#include "names/bind.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "What tetrace does in C++: interval arithmetic over the columns of a trace, and the names of ranges.";
  tetrace::intervals::bind(module);
  tetrace::names::bind(module);
}
