#include <pybind11/pybind11.h>

#include "build/bind.h"
#include "distinct/bind.h"
#include "fp8/bind.h"
#include "intervals/bind.h"
#include "kineto/bind.h"
#include "names/bind.h"
#include "ranges/bind.h"
#include "timing/bind.h"
#include "watch/bind.h"

PYBIND11_MODULE(_C, module) {
  module.doc() =
      "What tetrace does in C++: intervals, names of ranges, the ranges of a running script, statistics of tensors on "
      "the GPU, and reading what the PyTorch profiler writes.";
  tetrace::build::bind(module);
  tetrace::distinct::bind(module);
  tetrace::fp8::bind(module);
  tetrace::intervals::bind(module);
  tetrace::kineto::bind(module);
  tetrace::names::bind(module);
  tetrace::ranges::bind(module);
  tetrace::timing::bind(module);
  tetrace::watch::bind(module);
}
