#include "names/bind.h"

#include <pybind11/stl.h>

#include "common/columns.h"
#include "common/interpreter.h"
#include "names/collector_rows.h"
#include "names/demangle.h"
#include "names/op_names.h"

namespace py = pybind11;
using namespace py::literals;

namespace tetrace::names {
namespace {

template <class Offset>
py::tuple encode_unlocked(py::handle offsets, Span<std::uint8_t> data) {
  const Span<Offset> checked = view<Offset>(offsets);
  EncodedNames encoded = [&] {
    const InterpreterRelease unlocked;
    return encode(checked, data);
  }();
  py::list words(encoded.words.size());
  for (std::size_t code = 0; code < encoded.words.size(); ++code) words[code] = py::bytes(encoded.words[code]);
  return py::make_tuple(to_numpy(std::move(encoded.codes)), to_numpy(std::move(encoded.sequence)), words);
}

py::tuple encode_names(const py::array& offsets, Span<std::uint8_t> data) {
  const bool wide = offsets.itemsize() == sizeof(std::int64_t);
  return wide ? encode_unlocked<std::int64_t>(offsets, data) : encode_unlocked<std::int32_t>(offsets, data);
}

py::list demangle_all(const std::vector<std::string>& names) {
  std::vector<std::string> plain;
  {
    const InterpreterRelease unlocked;
    for (const std::string& name : names) plain.push_back(demangle(name));
  }
  py::list texts;
  // Such a name may hold any bytes: a text that is not UTF-8 must not end the import of all others.
  for (const std::string& name : plain) texts.append(py::bytes(name).attr("decode")("utf-8", "replace"));
  return texts;
}

}  // namespace

void bind(py::module_& module) {
  module.def("encode_names", &encode_names, "offsets"_a, "data"_a);
  module.def("demangle", &demangle_all, "names"_a);
  module.def("collector_rows", &collector_rows);
}

}  // namespace tetrace::names
