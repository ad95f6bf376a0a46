// Who else is in the process.
#pragma once

#include <string>
#include <vector>

namespace tetrace::collector {

// Paths of the loaded copies of a library: "libcupti", of any version, and also where its file name carries a hash.
std::vector<std::string> loaded_libraries(const std::string& name);

// Names of those that were linked to such a library; the program itself is "the program".
std::vector<std::string> users_of_library(const std::string& name);

// Tools that hold CUPTI where they run, by the libraries and variables that they leave; "" when none is seen.
std::string other_tools();

}  // namespace tetrace::collector
