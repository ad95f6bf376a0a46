// What NVTX ranges are called: domains, registered strings, and the number of each text in the recording.
#pragma once

#include <nvtx3/nvToolsExt.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tetrace::collector::nvtx {

// NVTX's handle of a domain points here; null is the default domain. Domains of one name are one. Never freed.
struct Domain {
  std::string name;
  std::int32_t number;  // the default domain's is 0
  bool is_ours;         // "tetrace": its ranges are in rings of their own
};

// The name of a range, and the autograd sequence number that emit_nvtx wrote behind it, or -1.
struct Text {
  std::uint32_t id;
  std::int64_t sequence;
};

// Numbers of the texts that one thread used last, so that a text that comes again takes no lock.
class TextCache {
 public:
  Text find(const Domain& domain, std::string_view text);

 private:
  struct Slot {
    const Domain* domain = nullptr;
    std::string text;
    std::uint32_t id = 0;
  };
  std::vector<Slot> slots_;
};

Domain* make_domain(std::string name);
Domain* domain_of(nvtxDomainHandle_t handle);

// The same handle for the same text of a domain.
nvtxStringHandle_t register_string(nvtxDomainHandle_t domain, std::string text);

Text find_text(TextCache& cache, const Domain& domain, const nvtxEventAttributes_t* event);

// As UTF-8; "" of null.
std::string narrow(const wchar_t* text);

// Around a fork, so that a child finds the tables whole.
void lock_texts();
void unlock_texts();

}  // namespace tetrace::collector::nvtx
