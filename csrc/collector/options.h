// What the environment of the process asks for, read once.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tetrace::collector {

struct Options {
  std::string folder;  // TETRACE_RECORDING, the working folder; "": record nothing
  bool all_calls = false;   // TETRACE_COLLECTOR: {"calls": "all"}; else those that launch, wait, allocate or load
  bool from_start = true;   // {"start": "now"}; else from tetrace_collector_start on
  std::vector<std::string> cupti;  // TETRACE_CUPTI: files to try, in order
};

const Options& options();

// `text` with the user's home folder as ~, where a path begins with it: a recording may be shown to others.
std::string without_home(std::string_view text);

// The value of a text in a flat JSON object; "" when it is not there. Public for its test.
std::string text_in_json(const std::string& json, const std::string& name);

}  // namespace tetrace::collector
