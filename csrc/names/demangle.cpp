#include "names/demangle.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>

namespace tetrace::names {

std::string demangle(const std::string& name) {
  // Without the prefix the demangler takes a name for a type: "i" would be an int.
  if (name.compare(0, 2, "_Z") != 0) return name;
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> plain(abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status),
                                                     std::free);
  return status == 0 ? plain.get() : name;
}

}  // namespace tetrace::names
