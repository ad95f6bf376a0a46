#include "ranges/calls.h"

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/error.h"
#include "ranges/stack.h"
#include "ranges/threads.h"
#include "watch/observing.h"
#include "watch/watched.h"

namespace tetrace::ranges {
namespace {

// What tells calls apart; which fields mean what is the business of the function that fills it.
using Key = std::array<std::int64_t, 10>;

struct KeyHash {
  std::size_t operator()(const Key& key) const {
    std::uint64_t hash = 0;
    for (const std::int64_t field : key) hash = (hash ^ static_cast<std::uint64_t>(field)) * 0x9E3779B97F4A7C15u + (hash >> 29);
    return static_cast<std::size_t>(hash ^ hash >> 32);
  }
};

constexpr std::int32_t no_site = -1;

// What is known of a call.
struct Found {
  std::int32_t site = no_site;
  std::int32_t watched = -1;  // what is observed of its tensor (watch/watched.h)
};

using Sites = std::unordered_map<Key, Found, KeyHash>;
// Variable lengths make new shapes in every step.
constexpr std::size_t most_sites = 20'000;

// By the address of the quantizer: once that is another's, what was known of it is forgotten (`forget_calls`).
std::unordered_map<std::int64_t, Sites>& sites_of_quantizers() {
  static auto* sites = new std::unordered_map<std::int64_t, Sites>;
  return *sites;
}

enum class What { quantize, gemm, output };

// One function that was replaced.
struct Ranged {
  PyObject_HEAD
  PyMethodDef* method;
  PyObject* plain;
  PyObject* resolve;  // (args, kwargs) -> number of the site, negative for none; or (site, number of what is watched). Of
                      // an output (args, result) -> None
  PyObject* known;    // of quantizers: a dictionary by address, which a quantizer that may be remembered is in
  PyObject* running;  // a list: while it holds something, addresses say nothing
  Sites* sites;       // of GEMMs
  std::int64_t serial;
  Py_ssize_t place;  // of the quantizer among the arguments
  What what;
};

PyObject* word(const char* text) {
  PyObject* interned = PyUnicode_InternFromString(text);
  if (interned == nullptr) throw pybind11::error_already_set();
  return interned;
}

struct Words {
  PyObject* numel = word("numel");
  PyObject* dtype = word("dtype");
  PyObject* rowwise = word("rowwise_usage");
  PyObject* columnwise = word("columnwise_usage");
  // Where quantized tensors keep their bytes, by class; either of two may be None.
  std::array<PyObject*, 4> data{word("_data"), word("_transpose"), word("_rowwise_data"), word("_columnwise_data")};
};

const Words& words() {
  static const auto* all = new Words;
  return *all;
}

std::int64_t address(const void* object) { return reinterpret_cast<std::int64_t>(object); }

// The object that an attribute holds, by address; it must be one that outlives the recording. False: there is none.
bool read_address(PyObject* object, PyObject* name, std::int64_t* found) {
  PyObject* value = PyObject_GetAttr(object, name);
  if (value == nullptr) return false;
  *found = address(value);
  Py_DECREF(value);
  return true;
}

bool count_elements(PyObject* tensor, std::int64_t* found) {
  PyObject* number = PyObject_CallMethodNoArgs(tensor, words().numel);
  if (number == nullptr) return false;
  *found = PyLong_AsLongLong(number);
  Py_DECREF(number);
  return *found != -1 || !PyErr_Occurred();
}

// Names of the attributes of a class that hold its tensors; none for a plain tensor.
const std::vector<PyObject*>& data_of(PyObject* operand) {
  static auto* known = new std::unordered_map<PyTypeObject*, std::vector<PyObject*>>;
  const auto [found, is_new] = known->try_emplace(Py_TYPE(operand));
  if (is_new) {
    Py_INCREF(Py_TYPE(operand));  // its address stays its own
    for (PyObject* name : words().data) {
      if (PyObject_HasAttr(operand, name)) found->second.push_back(name);
    }
  }
  return found->second;
}

// Elements of a tensor, or of the data that a quantized tensor has; -1 where that was cleared.
bool count_data(PyObject* operand, std::int64_t* found) {
  const std::vector<PyObject*>& names = data_of(operand);
  if (names.empty()) return count_elements(operand, found);
  *found = -1;
  for (PyObject* name : names) {
    PyObject* data = PyObject_GetAttr(operand, name);
    if (data == nullptr) return false;
    const bool counted = data == Py_None || count_elements(data, found);
    const bool there = data != Py_None;
    Py_DECREF(data);
    if (there || !counted) return counted;
  }
  return true;
}

std::int64_t is_none(PyObject* object) { return object == Py_None; }

// A tensor that is quantized: in a module its last dimension is fixed, so its number of elements tells its shape.
bool fill_quantize(const Ranged& self, PyObject* const* args, Py_ssize_t count, std::int64_t named, Key* key) {
  PyObject* tensor = args[0];
  PyObject* quantizer = args[self.place];
  (*key)[0] = self.serial;
  (*key)[1] = current_module();
  (*key)[2] = count << 8 | named;
  (*key)[3] = is_none(args[count - 1]) << 1 | (count > 2 ? is_none(args[2]) : 1);
  return count_elements(tensor, &(*key)[4]) && read_address(tensor, words().dtype, &(*key)[5]) &&
         read_address(quantizer, words().rowwise, &(*key)[6]) && read_address(quantizer, words().columnwise, &(*key)[7]);
}

// Places of `generic_gemm`'s arguments, the same since Transformer Engine 2.0.
enum Gemm { a = 0, trans_a, b, trans_b, out, gemm_quantizer, out_dtype, bias, bias_type, gelu, accumulate = 14, enough };

// What is given by name (alpha, beta, overlaps of communication) says nothing of the product's shape.
bool fill_gemm(PyObject* const* args, Py_ssize_t count, Key* key) {
  if (count < Gemm::enough) return false;
  std::int64_t flags = 0;
  for (const Gemm place : {trans_a, trans_b, gelu, accumulate}) {
    const int truth = PyObject_IsTrue(args[place]);
    if (truth < 0) return false;
    flags = flags << 1 | truth;
  }
  for (const Gemm place : {out, bias, gemm_quantizer}) flags = flags << 1 | is_none(args[place]);
  (*key)[0] = current_module();
  (*key)[1] = flags;
  (*key)[2] = address(Py_TYPE(args[a]));
  (*key)[3] = address(Py_TYPE(args[b]));
  return count_data(args[a], &(*key)[4]) && count_data(args[b], &(*key)[5]);
}

Found read_answer(PyObject* answer) {
  Found found;
  const bool both = PyTuple_Check(answer) && PyTuple_GET_SIZE(answer) == 2;
  found.site = static_cast<std::int32_t>(PyLong_AsLong(both ? PyTuple_GET_ITEM(answer, 0) : answer));
  if (both) found.watched = static_cast<std::int32_t>(PyLong_AsLong(PyTuple_GET_ITEM(answer, 1)));
  return found;
}

Found ask(const Ranged& self, PyObject* args, PyObject* names) {
  PyObject* named = names == nullptr ? PyDict_New() : Py_NewRef(names);
  PyObject* answer = named == nullptr ? nullptr : PyObject_CallFunctionObjArgs(self.resolve, args, named, nullptr);
  const Found found = answer == nullptr ? Found{} : read_answer(answer);
  Py_XDECREF(answer);
  Py_XDECREF(named);
  if (!PyErr_Occurred()) return found;
  PyErr_WriteUnraisable(self.resolve);  // tetrace's own: it must not reach the script
  return {};
}

bool is_known(const Ranged& self, PyObject* quantizer) {
  PyObject* key = PyLong_FromVoidPtr(quantizer);
  const int found = key == nullptr ? -1 : PyDict_Contains(self.known, key);
  Py_XDECREF(key);
  if (found < 0) PyErr_Clear();
  return found == 1;
}

// Where the sites of these arguments are kept; null where nothing may be remembered of them.
Sites* table_of(const Ranged& self, PyObject* args, bool make) {
  if (self.what == What::gemm) return self.sites;
  auto& all = sites_of_quantizers();
  PyObject* quantizer = PyTuple_GET_ITEM(args, self.place);
  const auto found = all.find(address(quantizer));
  if (found != all.end()) return &found->second;
  return make && is_known(self, quantizer) ? &all[address(quantizer)] : nullptr;
}

bool fill(const Ranged& self, PyObject* args, PyObject* names, Key* key) {
  PyObject* const* first = &PyTuple_GET_ITEM(args, 0);
  const Py_ssize_t count = PyTuple_GET_SIZE(args);
  if (self.what == What::gemm) return fill_gemm(first, count, key);
  const std::int64_t named = names == nullptr ? 0 : PyDict_GET_SIZE(names);
  return count > self.place && PyList_GET_SIZE(self.running) == 0 && fill_quantize(self, first, count, named, key);
}

Found find(const Ranged& self, PyObject* args, PyObject* names) {
  Key key{};
  if (!fill(self, args, names, &key)) {
    PyErr_Clear();
    return ask(self, args, names);
  }
  if (const Sites* table = table_of(self, args, false)) {
    const auto found = table->find(key);
    if (found != table->end()) return found->second;
  }
  const Found answer = ask(self, args, names);
  Sites* kept = answer.site < 0 ? nullptr : table_of(self, args, true);
  if (kept != nullptr && kept->size() < most_sites) kept->emplace(key, answer);
  return answer;
}

bool has_nothing_to_say(const Ranged& self, PyObject* args, PyObject* names) {
  if (!is_on()) return true;
  if (self.what == What::gemm) return false;
  return PyTuple_GET_SIZE(args) > self.place ? PyTuple_GET_ITEM(args, self.place) == Py_None : names == nullptr;
}

// A GEMM without a range, whose output is looked at where it is given a quantizer for it.
PyObject* call_gemm(const Ranged& self, PyObject* args, PyObject* names) {
  PyObject* result = PyObject_Call(self.plain, args, names);
  const bool is_watched = result != nullptr && watch::is_watching.load(std::memory_order_relaxed);
  if (!is_watched || PyTuple_GET_SIZE(args) <= Gemm::gemm_quantizer) return result;
  if (PyTuple_GET_ITEM(args, Gemm::gemm_quantizer) == Py_None) return result;
  PyObject* done = PyObject_CallFunctionObjArgs(self.resolve, args, result, nullptr);
  if (done == nullptr) PyErr_WriteUnraisable(self.resolve);  // tetrace's own: it must not reach the script
  Py_XDECREF(done);
  return result;
}

// Takes and passes on a tuple and a dictionary, as the compiled module's functions do: nothing is packed anew.
PyObject* call(PyObject* object, PyObject* args, PyObject* names) {
  const auto& self = *reinterpret_cast<Ranged*>(object);
  if (self.what == What::output) return call_gemm(self, args, names);
  const Found found = has_nothing_to_say(self, args, names) ? Found{} : find(self, args, names);
  if (found.site < 0) return PyObject_Call(self.plain, args, names);
  push(found.site);
  PyObject* result = PyObject_Call(self.plain, args, names);
  pop();
  // Only now: the result has the scale, and what was quantized is there as long as the caller's arguments are.
  if (found.watched >= 0 && result != nullptr) watch::observe_call(found.watched, args, names, self.place, result);
  return result;
}

void destroy(PyObject* object) {
  auto* self = reinterpret_cast<Ranged*>(object);
  PyTypeObject* type = Py_TYPE(object);
  for (PyObject* held : {self->plain, self->resolve, self->known, self->running}) Py_XDECREF(held);
  delete self->sites;
  if (self->method != nullptr) {
    delete[] self->method->ml_name;
    delete[] self->method->ml_doc;
    delete self->method;
  }
  PyObject_Free(object);
  Py_DECREF(type);
}

PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(destroy)}, {0, nullptr}};
PyType_Spec spec = {"tetrace._C.Ranged", sizeof(Ranged), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

const char* copied(const pybind11::handle& text) {
  const std::string from = pybind11::isinstance<pybind11::str>(text) ? text.cast<std::string>() : "";
  char* to = new char[from.size() + 1];
  from.copy(to, from.size());
  to[from.size()] = '\0';
  return to;
}

// A built-in function like those of Transformer Engine's compiled module: whoever looks, Dynamo too, sees one of these.
pybind11::object make(Ranged* self, const pybind11::object& plain) {
  const auto self_owner = pybind11::reinterpret_steal<pybind11::object>(reinterpret_cast<PyObject*>(self));
  const auto function = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call));
  const pybind11::object none = pybind11::none();
  self->method = new PyMethodDef{copied(pybind11::getattr(plain, "__name__", none)), function,
                                 METH_VARARGS | METH_KEYWORDS, copied(pybind11::getattr(plain, "__doc__", none))};
  const pybind11::object module = pybind11::getattr(plain, "__module__", none);
  PyObject* made = PyCFunction_NewEx(self->method, self_owner.ptr(), module.ptr());
  if (made == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(made);
}

Ranged* allocate(What what, const pybind11::object& plain, const pybind11::object& resolve) {
  static PyObject* type = PyType_FromSpec(&spec);
  static std::int64_t serials = 0;
  if (type == nullptr) throw pybind11::error_already_set();
  auto* self = PyObject_New(Ranged, reinterpret_cast<PyTypeObject*>(type));
  if (self == nullptr) throw pybind11::error_already_set();
  self->method = nullptr;
  self->plain = plain.inc_ref().ptr();
  self->resolve = resolve.inc_ref().ptr();
  self->known = self->running = nullptr;
  self->sites = what == What::gemm ? new Sites : nullptr;
  self->serial = ++serials;
  self->place = 0;
  self->what = what;
  return self;
}

pybind11::object ranged_gemm(const pybind11::object& plain, const pybind11::object& resolve) {
  return make(allocate(What::gemm, plain, resolve), plain);
}

pybind11::object watched_gemm(const pybind11::object& plain, const pybind11::object& observe) {
  return make(allocate(What::output, plain, observe), plain);
}

pybind11::object ranged_quantize(const pybind11::object& plain, const pybind11::object& resolve, Py_ssize_t place,
                                 const pybind11::dict& known, const pybind11::list& running) {
  if (place < 0) refuse("place is ", place, "; give that of the quantizer among the arguments");
  Ranged* self = allocate(What::quantize, plain, resolve);
  self->known = known.inc_ref().ptr();
  self->running = running.inc_ref().ptr();
  self->place = place;
  return make(self, plain);
}

void forget_calls(std::int64_t quantizer) { sites_of_quantizers().erase(quantizer); }

void forget_all_calls() { sites_of_quantizers().clear(); }

}  // namespace

void bind_calls(pybind11::module_& module) {
  using namespace pybind11::literals;
  module.def("ranged_gemm", &ranged_gemm, "plain"_a, "resolve"_a);
  module.def("watched_gemm", &watched_gemm, "plain"_a, "observe"_a);
  module.def("ranged_quantize", &ranged_quantize, "plain"_a, "resolve"_a, "place"_a, "known"_a, "running"_a);
  module.def("forget_calls", &forget_calls, "quantizer"_a);
  module.def("forget_all_calls", &forget_all_calls);
}

}  // namespace tetrace::ranges
