// Texts as codes: each distinct one is kept once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tetrace::kineto {

class Interner {
 public:
  // The code of `text`: how many distinct texts came before it.
  std::int32_t code(std::string_view text);

  const std::vector<std::string>& words() const { return words_; }

 private:
  void grow();

  std::vector<std::string> words_;
  std::vector<std::uint64_t> hashes_;  // of words_
  std::vector<std::int32_t> slots_;    // open addressing; -1 is free, the size a power of two
};

}  // namespace tetrace::kineto
