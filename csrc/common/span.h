// A view of a column that someone else owns, and a column of our own. No Python here.
#pragma once

#include <cstddef>
#include <vector>

namespace tetrace {

template <class T>
class Span {
 public:
  Span() = default;
  Span(const T* data, std::size_t size) : data_(data), size_(size) {}
  Span(const std::vector<T>& values) : Span(values.data(), values.size()) {}

  const T& operator[](std::size_t index) const { return data_[index]; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }

 private:
  const T* data_ = nullptr;
  std::size_t size_ = 0;
};

// A type of its own, so that its way to Python (common/columns.h) is not the one of other vectors.
template <class T>
struct Column : std::vector<T> {
  using std::vector<T>::vector;
};

}  // namespace tetrace
