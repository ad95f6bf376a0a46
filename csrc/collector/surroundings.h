// Who else is in the process.
#pragma once

#include <string>
#include <vector>

namespace tetrace::collector {

// Paths of loaded libraries whose file name contains this.
std::vector<std::string> loaded_libraries(const std::string& part_of_name);

// Names of those that were linked to a library whose name begins so; the program itself is "the program".
std::vector<std::string> users_of_library(const std::string& begin_of_name);

// Tools that hold CUPTI where they run, by the libraries and variables that they leave; "" when none is seen.
std::string other_tools();

}  // namespace tetrace::collector
