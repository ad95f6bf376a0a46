// Texts of the recording, each written once to cupti.bin and known by its number from then on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tetrace::collector {

// What is kept of the texts of kernels and calls, and as much again of those of NVTX ranges.
constexpr std::size_t most_text_bytes = std::size_t{32} << 20;

// The number of this text, the same for the same text as long as the process lives. From any thread. The writer writes
// the text before any row that uses it. `no_text` when there are more texts than are kept, which is told once as an
// event, or in a forked child.
std::uint32_t text_id(std::string_view text);

// The same for what the library says itself: there is always room for that.
std::uint32_t own_text_id(std::string_view text);

// The same for an NVTX range's "DOMAIN\x1fTEXT": numbers with the bit `nvtx_text`, apart from those of text_id. The writer
// is woken, since rings have their rows at once: a process killed later than that leaves no row without its text.
std::uint32_t nvtx_text_id(std::string_view domain_and_text);

// Texts not yet taken, as the payload of a frame; `count` of them. For the writer.
std::vector<char> take_new_texts(std::uint32_t& count);

// Names of kernels, by the address that CUPTI has them at: the same name comes thousands of times. One thread's.
class NameCache {
 public:
  std::uint32_t find(const char* name);

 private:
  struct Known {
    const char* address = nullptr;
    std::uint32_t id = 0;
    std::string text;
  };
  static constexpr std::size_t places = 4096;
  std::vector<Known> known_ = std::vector<Known>(places);
};

}  // namespace tetrace::collector
