#include "ranges/bind.h"

#include <utility>

#include "common/columns.h"
#include "common/interpreter.h"
#include "ranges/annotate.h"
#include "ranges/autograd.h"
#include "ranges/calls.h"
#include "ranges/image.h"
#include "ranges/reading.h"
#include "ranges/sites.h"
#include "ranges/stack.h"
#include "ranges/threads.h"

namespace py = pybind11;
using namespace py::literals;

namespace tetrace::ranges {
namespace {

// What is called around every piece of a training step is bound by hand: pybind11's dispatch alone takes longer than
// all that happens here.

PyObject* call_push(PyObject*, PyObject* argument) {
  const long site = PyLong_AsLong(argument);
  if (site == -1 && PyErr_Occurred()) return nullptr;
  if (push(static_cast<std::int32_t>(site))) Py_RETURN_NONE;
  return PyErr_Format(PyExc_ValueError, "there is no site %ld; push what site() returned", site);
}

PyObject* call_pop(PyObject*, PyObject*) {
  pop();
  Py_RETURN_NONE;
}

PyObject* call_depth(PyObject*, PyObject*) { return PyLong_FromLongLong(depth()); }

PyObject* call_unwind(PyObject*, PyObject* argument) {
  const long to = PyLong_AsLong(argument);
  if (to == -1 && PyErr_Occurred()) return nullptr;
  unwind(to);
  Py_RETURN_NONE;
}

PyObject* call_current_module(PyObject*, PyObject*) { return PyLong_FromLong(current_module()); }

PyObject* call_ranges_on(PyObject*, PyObject*) { return PyBool_FromLong(is_on()); }

PyMethodDef fast[] = {
    {"push", call_push, METH_O, nullptr},
    {"pop", call_pop, METH_NOARGS, nullptr},
    {"depth", call_depth, METH_NOARGS, nullptr},
    {"unwind", call_unwind, METH_O, nullptr},
    {"current_module", call_current_module, METH_NOARGS, nullptr},
    {"ranges_on", call_ranges_on, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

std::int32_t make_site(std::string name, std::uint32_t category, std::int32_t kind) {
  if (kind < 0 || kind > 2) refuse("kind is ", kind, "; 0 is any range, 1 a module's forward, 2 a module's backward");
  return add_site(std::move(name), category, static_cast<Kind>(kind));
}

void only_in_ring(std::int32_t number, bool only) {
  Site* site = find_site(number);
  if (site == nullptr) refuse("there is no site ", number, "; give what site() returned");
  site->only_in_ring.store(only, std::memory_order_relaxed);
}

void set_backward_site(std::int32_t forward, std::int32_t backward) {
  Site* site = find_site(forward);
  if (site == nullptr) refuse("there is no site ", forward, "; give what site() returned");
  site->backward_site.store(backward, std::memory_order_relaxed);
}

py::capsule autograd_capsule() {
  static Autograd functions{set_sequence, enter_backward, leave_backward};
  return py::capsule(&functions, autograd_capsule_name);
}

std::string folder_of_process(const std::string& recording) {
  std::string folder = process_folder(recording);
  if (!folder.empty()) return folder;
  PyErr_SetFromErrnoWithFilename(PyExc_OSError, recording.c_str());
  throw py::error_already_set();
}

py::dict ring_columns(const std::string& path) {
  Recorded recorded = [&] {
    const InterpreterRelease unlocked;
    return read_ring(path);
  }();
  return py::dict("process"_a = recorded.process, "thread"_a = recorded.thread,
                  "name"_a = py::bytes(recorded.name).attr("decode")("utf-8", "replace"),
                  "dropped"_a = recorded.dropped, "closed"_a = recorded.closed,
                  "start_ns"_a = to_numpy(std::move(recorded.start)), "end_ns"_a = to_numpy(std::move(recorded.end)),
                  "site"_a = to_numpy(std::move(recorded.site)), "step"_a = to_numpy(std::move(recorded.step)),
                  "depth"_a = to_numpy(std::move(recorded.depth)), "value"_a = to_numpy(std::move(recorded.value)));
}

}  // namespace

void bind(py::module_& module) {
  if (PyModule_AddFunctions(module.ptr(), fast) != 0) throw py::error_already_set();
  bind_annotate(module);
  bind_calls(module);
  module.def("ranges_open", &switch_on, py::call_guard<InterpreterRelease>(), "folder"_a, "bytes_per_thread"_a);
  module.def("ranges_close", &switch_off, py::call_guard<InterpreterRelease>());
  module.def("site", &make_site, "name"_a, "category"_a, "kind"_a);
  module.def("start", &start, "site"_a);
  module.def("end", &end, "handle"_a);
  module.def("set_step", &set_step, "step"_a);
  module.def("set_backward_site", &set_backward_site, "forward_site"_a, "backward_site"_a);
  module.def("set_loss_site", &set_loss_site, "site"_a);
  module.def("only_in_ring", &only_in_ring, "site"_a, "only"_a);
  module.def("autograd_capsule", &autograd_capsule);
  module.def("forget_transitions", [] { forget_transitions(true); });
  module.def("process_folder", &folder_of_process, "recording"_a);
  module.def("read_ring", &ring_columns, "path"_a);
}

}  // namespace tetrace::ranges
