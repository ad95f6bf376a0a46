// Functions of a library that nothing links, found by name when it is first asked for: CUDA's driver.
#pragma once

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <string>

#include "common/error.h"

namespace tetrace {

// An opened library. `needs` is what it must be when a function is missing: "CUDA 11".
class Symbols {
 public:
  Symbols(const std::string& path, const char* needs)
      : path_(path), needs_(needs), library_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) refuse(path, ": cannot be loaded (", dlerror(), "); the CUDA driver must be installed");
  }

  template <class Function>
  void find(const char* name, Function*& function) const {
    void* found = dlsym(library_, name);
    if (found == nullptr) refuse(path_, ": has no ", name, "; it is no CUDA driver, or one older than ", needs_);
    function = reinterpret_cast<Function*>(found);
  }

 private:
  const std::string& path_;
  const char* needs_;
  void* library_;  // never unloaded: its functions may run at any time, also while the process ends
};

// What `load` makes of the library at `path`, the first time; there until the process ends. What it throws is thrown.
template <class Table>
const Table& loaded_once(const std::string& path, Table (*load)(const std::string&)) {
  static std::mutex loading;
  static auto& loaded = *new std::map<std::string, Table>;
  const std::lock_guard<std::mutex> lock(loading);
  const auto found = loaded.find(path);
  return found != loaded.end() ? found->second : loaded.emplace(path, load(path)).first->second;
}

}  // namespace tetrace
