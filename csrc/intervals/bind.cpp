#include "intervals/bind.h"

#include "common/columns.h"
#include "common/interpreter.h"
#include "intervals/nesting.h"
#include "intervals/order.h"
#include "intervals/sets.h"

namespace py = pybind11;
using namespace py::literals;

namespace pybind11::detail {

template <>
struct type_caster<tetrace::intervals::Intervals> {
  static constexpr auto name = const_name("tuple[group, start, end]");

  static handle cast(tetrace::intervals::Intervals&& value, return_value_policy, handle) {
    using tetrace::to_numpy;
    return py::make_tuple(to_numpy(std::move(value.group)), to_numpy(std::move(value.start)),
                          to_numpy(std::move(value.end)))
        .release();
  }
};

template <>
struct type_caster<tetrace::intervals::Segments> {
  static constexpr auto name = const_name("tuple[group, start, end, row]");

  static handle cast(tetrace::intervals::Segments&& value, return_value_policy, handle) {
    using tetrace::to_numpy;
    return py::make_tuple(to_numpy(std::move(value.time.group)), to_numpy(std::move(value.time.start)),
                          to_numpy(std::move(value.time.end)), to_numpy(std::move(value.row)))
        .release();
  }
};

template <>
struct type_caster<tetrace::intervals::Overlaps> {
  static constexpr auto name = const_name("tuple[index_a, index_b, ns]");

  static handle cast(tetrace::intervals::Overlaps&& value, return_value_policy, handle) {
    using tetrace::to_numpy;
    return py::make_tuple(to_numpy(std::move(value.index_a)), to_numpy(std::move(value.index_b)),
                          to_numpy(std::move(value.ns)))
        .release();
  }
};

}  // namespace pybind11::detail

namespace tetrace::intervals {

void bind(py::module_& module) {
  using Unlocked = py::call_guard<InterpreterRelease>;

  module.def("order", &order, Unlocked(), "group"_a, "start"_a, "end"_a);
  module.def("nest", &nest, Unlocked(), "group"_a, "start"_a, "end"_a);
  module.def("innermost", &innermost, Unlocked(), "group"_a, "start"_a, "end"_a, "parent"_a, "query_group"_a,
             "query_time"_a);
  module.def("inherit", &inherit, Unlocked(), "parent"_a, "own"_a);
  module.def("segments", &segments, Unlocked(), "group"_a, "start"_a, "end"_a, "parent"_a);
  module.def("merge", &merge, Unlocked(), "group"_a, "start"_a, "end"_a);
  module.def("subtract", &subtract, Unlocked(), "group_a"_a, "start_a"_a, "end_a"_a, "group_b"_a, "start_b"_a,
             "end_b"_a);
  module.def("covered", &covered, Unlocked(), "group"_a, "start"_a, "end"_a, "window_group"_a, "window_start"_a,
             "window_end"_a);
  module.def("overlaps", &overlaps, Unlocked(), "group_a"_a, "start_a"_a, "end_a"_a, "group_b"_a, "start_b"_a,
             "end_b"_a);
}

}  // namespace tetrace::intervals
