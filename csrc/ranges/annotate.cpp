#include "ranges/annotate.h"

#include <structmember.h>

#include "ranges/stack.h"
#include "ranges/threads.h"

namespace tetrace::ranges {
namespace {

struct Annotate {
  PyObject_HEAD
  PyObject* name;
  std::int32_t site;  // -1 until it is first entered while ranges are on
};

PyObject* python_side(const char* name) {
  PyObject* module = PyImport_ImportModule("tetrace.instrument.ranges");
  if (module == nullptr) return nullptr;
  PyObject* found = PyObject_GetAttrString(module, name);
  Py_DECREF(module);
  return found;
}

// Name -> number of the site: asked for once, then kept for all annotations of that name.
PyObject* known_sites() {
  static PyObject* known = PyDict_New();
  return known;
}

PyObject* new_site(PyObject* name) {
  PyObject* make = python_side("annotation_site");
  if (make == nullptr) return nullptr;
  PyObject* site = PyObject_CallOneArg(make, name);
  Py_DECREF(make);
  if (site != nullptr && PyDict_SetItem(known_sites(), name, site) != 0) Py_CLEAR(site);
  return site;
}

// An error here must not reach the annotated code: it is printed, and there is no range.
std::int32_t find_site(PyObject* self, PyObject* name) {
  PyObject* site = PyDict_GetItemWithError(known_sites(), name);
  Py_XINCREF(site);
  if (site == nullptr && !PyErr_Occurred()) site = new_site(name);
  const long number = site == nullptr ? -1 : PyLong_AsLong(site);
  Py_XDECREF(site);
  if (PyErr_Occurred()) PyErr_WriteUnraisable(self);
  return static_cast<std::int32_t>(number);
}

PyObject* enter(PyObject* self, PyObject*) {
  if (is_on()) {
    auto* annotate = reinterpret_cast<Annotate*>(self);
    if (annotate->site < 0) annotate->site = find_site(self, annotate->name);
    push(annotate->site);
  }
  return Py_NewRef(self);
}

PyObject* exit(PyObject* self, PyObject* const*, Py_ssize_t) {
  const std::int32_t site = reinterpret_cast<Annotate*>(self)->site;
  if (site >= 0) leave(site);
  Py_RETURN_NONE;
}

PyObject* decorate(PyObject* self, PyObject* args, PyObject* keywords) {
  PyObject* function = nullptr;
  static const char* names[] = {"function", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:annotate", const_cast<char**>(names), &function)) return nullptr;
  PyObject* decorated = python_side("decorated");
  if (decorated == nullptr) return nullptr;
  PyObject* result = PyObject_CallFunctionObjArgs(decorated, self, function, nullptr);
  Py_DECREF(decorated);
  return result;
}

PyObject* create(PyObject* type, PyObject* const* args, std::size_t flags, PyObject* keywords) {
  const Py_ssize_t positional = PyVectorcall_NARGS(flags);
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  const bool by_name = named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords, 0), "name") == 0;
  if (positional + named != 1 || (named == 1 && !by_name) || !PyUnicode_Check(args[0])) {
    PyErr_SetString(PyExc_TypeError, "annotate takes one text, the name of the range: annotate(\"data loading\")");
    return nullptr;
  }
  auto* self = PyObject_New(Annotate, reinterpret_cast<PyTypeObject*>(type));
  if (self == nullptr) return nullptr;
  self->name = Py_NewRef(args[0]);
  self->site = -1;
  return reinterpret_cast<PyObject*>(self);
}

void destroy(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  Py_DECREF(reinterpret_cast<Annotate*>(self)->name);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyObject* represent(PyObject* self) {
  return PyUnicode_FromFormat("tetrace.annotate(%R)", reinterpret_cast<Annotate*>(self)->name);
}

PyMethodDef methods[] = {
    {"__enter__", enter, METH_NOARGS, nullptr},
    {"__exit__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(exit)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef members[] = {
    {"name", T_OBJECT_EX, offsetof(Annotate, name), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

char doc[] = "A range of this name, as a context manager or a decorator. Does nothing while nothing is recorded.";

PyType_Slot slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(destroy)}, {Py_tp_repr, reinterpret_cast<void*>(represent)},
    {Py_tp_call, reinterpret_cast<void*>(decorate)},   {Py_tp_methods, methods},
    {Py_tp_members, members},                          {Py_tp_doc, doc},
    {0, nullptr},
};

// Made by `create` only, so that there is no object without a name.
PyType_Spec spec = {"tetrace._C.annotate", sizeof(Annotate), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

}  // namespace

void bind_annotate(pybind11::module_& module) {
  PyObject* type = PyType_FromSpec(&spec);
  if (type == nullptr) throw pybind11::error_already_set();
  // Half of what a `with` statement costs is otherwise the making of the object.
  reinterpret_cast<PyTypeObject*>(type)->tp_vectorcall = create;
  module.add_object("annotate", pybind11::reinterpret_steal<pybind11::object>(type));
}

}  // namespace tetrace::ranges
