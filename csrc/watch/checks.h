// Tensors of which only non-finite values are counted: what modules return, losses, gradients, parameters.
#pragma once

#include <Python.h>

#include <cstdint>
#include <vector>

namespace tetrace::watch {

// `ask(site of a module's forward)` gives the site of the rows of its output, negative for none; `check(site, tensor)`
// takes what cannot be observed here.
void set_checks(PyObject* ask, PyObject* check);
void forget_outputs();

// A module returned `result`: its first tensor. One that the module passes on from inside it was checked already.
void check_output(std::int32_t module_site, PyObject* result);

// Lists of equal length: sites of the rows, and tensors. One launch for all of a number type.
void check_tensors(PyObject* sites, PyObject* tensors);

// The same of parameters, or of their gradients, as far as that can be done without Python: the places of the others, which
// may have no gradient, are returned. Negative sites are passed by.
std::vector<Py_ssize_t> check_parameters(PyObject* sites, PyObject* parameters, bool of_gradients);

}  // namespace tetrace::watch
