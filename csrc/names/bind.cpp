#include "names/bind.h"

#include "common/columns.h"
#include "names/op_names.h"

namespace py = pybind11;
using namespace py::literals;

namespace tetrace::names {
namespace {

template <class Offset>
py::tuple encode_unlocked(py::handle offsets, Span<std::uint8_t> data) {
  const Span<Offset> checked = view<Offset>(offsets);
  EncodedNames encoded = [&] {
    const py::gil_scoped_release unlocked;
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

}  // namespace

void bind(py::module_& module) { module.def("encode_names", &encode_names, "offsets"_a, "data"_a); }

}  // namespace tetrace::names
