// How numpy arrays become spans and columns become numpy arrays. Included where functions are bound, nowhere else.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <utility>

#include "common/error.h"
#include "common/span.h"

namespace tetrace {

template <class T>
std::string dtype_name() {
  return pybind11::str(pybind11::dtype::of<T>()).cast<std::string>();
}

// The array's own memory, never a copy. It must outlive the span.
// Throws when the array is not one-dimensional, contiguous and of exactly T.
template <class T>
Span<T> view(pybind11::handle value) {
  const std::string expected = "expected a contiguous numpy array of " + dtype_name<T>() + " with one dimension, got ";
  if (!pybind11::isinstance<pybind11::array>(value)) {
    refuse(expected, pybind11::type::of(value).attr("__name__").cast<std::string>());
  }
  const auto array = pybind11::reinterpret_borrow<pybind11::array>(value);
  const pybind11::dtype wanted = pybind11::dtype::of<T>();
  const bool same_type = array.dtype().equal(wanted);
  const bool contiguous = (array.flags() & pybind11::array::c_style) != 0;
  if (!same_type || array.ndim() != 1 || !contiguous) {
    refuse(expected, contiguous ? "" : "a strided one of ", pybind11::str(array.dtype()).cast<std::string>(),
           " and shape ", pybind11::str(array.attr("shape")).cast<std::string>());
  }
  return {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
}

// An array that takes over the column's memory.
template <class T>
pybind11::array to_numpy(Column<T>&& column) {
  auto owned = std::make_unique<Column<T>>(std::move(column));
  const pybind11::capsule owner(owned.get(), [](void* memory) { delete static_cast<Column<T>*>(memory); });
  const Column<T>* values = owned.release();
  return pybind11::array_t<T>(static_cast<pybind11::ssize_t>(values->size()), values->data(), owner);
}

}  // namespace tetrace

namespace pybind11::detail {

// The caster holds the array, so the span is good for the whole call, also while the GIL is released.
template <class T>
struct type_caster<tetrace::Span<T>> {
  static constexpr auto name = const_name("numpy.ndarray[") + npy_format_descriptor<T>::name + const_name("]");
  template <class>
  using cast_op_type = tetrace::Span<T>;

  bool load(handle source, bool) {
    span_ = tetrace::view<T>(source);
    owner_ = reinterpret_borrow<object>(source);
    return true;
  }
  operator tetrace::Span<T>() { return span_; }

 private:
  tetrace::Span<T> span_;
  object owner_;
};

template <class T>
struct type_caster<tetrace::Column<T>> {
  static constexpr auto name = const_name("numpy.ndarray[") + npy_format_descriptor<T>::name + const_name("]");

  static handle cast(tetrace::Column<T>&& column, return_value_policy, handle) {
    return tetrace::to_numpy(std::move(column)).release();
  }
};

}  // namespace pybind11::detail
