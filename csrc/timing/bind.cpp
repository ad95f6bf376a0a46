#include "timing/bind.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "common/columns.h"
#include "common/interpreter.h"
#include "timing/driver.h"
#include "timing/interpreter.h"
#include "timing/marks.h"
#include "timing/measured.h"
#include "timing/recorder.h"
#include "timing/streams.h"

namespace py = pybind11;
using namespace py::literals;

namespace tetrace::timing {
namespace {

// Functions of torch's own extension: the number of the current device, and the handle of its current stream.
PyObject* get_device = nullptr;
PyObject* get_stream = nullptr;

bool ask_python(std::int32_t* device, void** stream) {
  PyObject* number = *device < 0 ? PyObject_CallNoArgs(get_device) : PyLong_FromLong(*device);
  if (number == nullptr) return false;
  *device = static_cast<std::int32_t>(PyLong_AsLong(number));
  PyObject* handle = PyObject_CallOneArg(get_stream, number);
  Py_DECREF(number);
  if (handle == nullptr) return false;
  *stream = PyLong_AsVoidPtr(handle);
  Py_DECREF(handle);
  return !PyErr_Occurred();
}

// The error that is set, if one is, belongs to the caller, whose range closes because of it.
int python_source(std::int32_t* device, void** stream) {
  if (is_interpreter_ending()) return 0;
  // All of it, since Python lets go of the interpreter and takes it back while it runs.
  return sleep_where_interpreter_ends([&] {
    const PyGILState_STATE state = PyGILState_Ensure();
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    const bool known = ask_python(device, stream);
    PyErr_Restore(type, value, traceback);
    PyGILState_Release(state);
    return known ? 1 : 0;
  });
}

// Once it has ended, PyGILState_Check says of every thread that it holds it.
void* let_go() { return is_interpreter_ending() || PyGILState_Check() == 0 ? nullptr : PyEval_SaveThread(); }

void take_back(void* held) { take_interpreter_back(static_cast<PyThreadState*>(held)); }

constexpr Interpreter python{let_go, take_back};

void ask_for_streams(const py::object& device, const py::object& stream, std::uintptr_t source) {
  Py_XSETREF(get_device, py::object(device).release().ptr());
  Py_XSETREF(get_stream, py::object(stream).release().ptr());
  set_sources(reinterpret_cast<Source>(source), python_source);
}

void open_timing(std::size_t most_events, std::int32_t step_site, const py::object& device, const py::object& stream,
                 std::uintptr_t source, const std::string& library) {
  const Driver& driver = load_driver(library);
  know_interpreter();
  ask_for_streams(device, stream, source);
  const InterpreterRelease unlocked;
  open(driver, most_events, step_site);
}

void close_timing(double wait_s) { close(static_cast<std::int64_t>(wait_s * 1e9)); }

std::size_t step(std::int32_t number, bool sampled) {
  begin_step(number, sampled);
  return recorder().results().rows_waiting();
}

static_assert(sizeof(Row) == 24, "tetrace/instrument/row_file.py knows the layout");

py::bytes rows() {
  const std::vector<Row> taken = recorder().results().take_rows();
  return {reinterpret_cast<const char*>(taken.data()), taken.size() * sizeof(Row)};
}

py::dict summary() {
  Column<std::int32_t> site;
  Column<std::int64_t> steps, partial, calls, sum, least, most, median, p95;
  for (const auto& [number, one] : recorder().results().summaries()) {
    site.push_back(number);
    steps.push_back(one.steps);
    partial.push_back(one.partial_steps);
    calls.push_back(one.count);
    sum.push_back(one.sum_ns);
    least.push_back(one.min_ns);
    most.push_back(one.max_ns);
    // The middle of a bucket may lie outside of what was seen.
    median.push_back(std::min(std::max(one.histogram.quantile(0.5), one.min_ns), one.max_ns));
    p95.push_back(std::min(std::max(one.histogram.quantile(0.95), one.min_ns), one.max_ns));
  }
  return py::dict("site"_a = std::move(site), "steps"_a = std::move(steps), "partial_steps"_a = std::move(partial),
                  "count"_a = std::move(calls), "sum_ns"_a = std::move(sum), "min_ns"_a = std::move(least),
                  "max_ns"_a = std::move(most), "median_ns"_a = std::move(median), "p95_ns"_a = std::move(p95));
}

py::dict counts() {
  const Counts now = recorder().counts();
  return py::dict("measured"_a = now.measured, "crossed"_a = now.crossed, "captured"_a = now.captured,
                  "no_room"_a = now.no_room, "failed"_a = now.failed, "unclear"_a = now.unclear, "unfinished"_a = now.unfinished,
                  "pending"_a = recorder().pending(), "events"_a = recorder().pool().made(),
                  "last_error"_a = recorder().pool().last_error(),
                  "rows_dropped"_a = recorder().results().rows_dropped());
}

}  // namespace

void know_interpreter() { interpreter = &python; }

void bind(py::module_& module) {
  const auto unlocked = py::call_guard<InterpreterRelease>();
  module.def("timing_open", &open_timing, "most_events"_a, "step_site"_a, "get_device"_a, "get_stream"_a,
             "source"_a = 0, "library"_a = "libcuda.so.1");
  module.def("timing_streams", &ask_for_streams, "get_device"_a, "get_stream"_a, "source"_a = 0);
  module.def("timing_close", &close_timing, unlocked, "wait_s"_a);
  module.def("timing_measure", &measure, "site"_a, "around"_a, "measured"_a, "device"_a = -1);
  module.def("timing_reset", &reset, unlocked);
  module.def("timing_step", &step, unlocked, "step"_a, "sampled"_a);
  module.def("timing_begin_backward", &begin_backward, unlocked);
  module.def("timing_end_backward", &end_backward, unlocked);
  module.def("timing_rows", &rows);
  module.def("timing_summary", &summary);
  module.def("timing_counts", &counts);
}

}  // namespace tetrace::timing
