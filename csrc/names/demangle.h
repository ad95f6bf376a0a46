// Names of kernels as their source says them.
#pragma once

#include <string>

namespace tetrace::names {

// `name` demangled by the rules of the Itanium ABI, which nvcc and gcc follow; as it is where it is no such name.
std::string demangle(const std::string& name);

}  // namespace tetrace::names
