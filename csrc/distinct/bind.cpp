#include "distinct/bind.h"

#include "common/columns.h"
#include "common/interpreter.h"
#include "distinct/distinct.h"

namespace py = pybind11;
using namespace py::literals;

namespace tetrace::distinct {
namespace {

py::tuple distinct_values(Span<std::int64_t> rows) {
  Distinct found = [&] {
    const InterpreterRelease unlocked;
    return distinct(rows);
  }();
  return py::make_tuple(to_numpy(std::move(found.values)), to_numpy(std::move(found.codes)));
}

}  // namespace

void bind(py::module_& module) {
  module.def("distinct", &distinct_values, "values"_a);
  module.def("sums", &sums, py::call_guard<InterpreterRelease>(), "codes"_a, "groups"_a, "values"_a);
}

}  // namespace tetrace::distinct
