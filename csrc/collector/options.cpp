#include "collector/options.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

namespace tetrace::collector {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<std::string> paths_in(const std::string& list) {
  std::vector<std::string> paths;
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(':', at), list.size());
    if (end > at) paths.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return paths;
}

std::string folder_name(std::string folder) {
  while (!folder.empty() && folder.back() == '/') folder.pop_back();
  return folder;
}

// Else it is another folder: one whose name ends, or begins, as this one's does.
bool is_whole_name(char before, char after) {
  const auto is_of_name = [](char letter) {
    return std::isalnum(static_cast<unsigned char>(letter)) != 0 || std::strchr("._-", letter) != nullptr;
  };
  return !is_of_name(before) && !is_of_name(after);
}

Options read() {
  Options read;
  read.folder = variable("TETRACE_RECORDING");
  const std::string choices = variable("TETRACE_COLLECTOR");
  read.all_calls = text_in_json(choices, "calls") == "all";
  read.from_start = text_in_json(choices, "start") != "window";
  read.cupti = paths_in(variable("TETRACE_CUPTI"));
  return read;
}

}  // namespace

std::string text_in_json(const std::string& json, const std::string& name) {
  const std::string quoted = "\"" + name + "\"";
  std::size_t at = json.find(quoted);
  if (at == std::string::npos) return "";
  at = json.find_first_not_of(" \t\n:", at + quoted.size());
  if (at == std::string::npos || json[at] != '"') return "";
  const std::size_t end = json.find('"', at + 1);
  return end == std::string::npos ? "" : json.substr(at + 1, end - at - 1);
}

std::string without_home(std::string_view text) {
  static const std::string& home = *new std::string(folder_name(variable("HOME")));
  std::string shown(text);
  if (home.empty()) return shown;
  for (std::size_t at = 0; (at = shown.find(home, at)) != std::string::npos; ++at) {
    const std::size_t end = at + home.size();
    const char before = at == 0 ? ' ' : shown[at - 1], after = end == shown.size() ? ' ' : shown[end];
    if (is_whole_name(before, after)) shown.replace(at, home.size(), "~");
  }
  return shown;
}

const Options& options() {
  static const Options& only = *new Options(read());
  return only;
}

}  // namespace tetrace::collector
