#include "collector/cupti_api.h"

#include <dlfcn.h>

#include "collector/surroundings.h"

namespace tetrace::collector {
namespace {

// Empty when the library has all that is needed; else what it lacks.
std::string look_up(void* library, CuptiApi& api) {
  std::string missing;
#define TETRACE_NEEDED(name, ...)                                                        \
  api.name = reinterpret_cast<cupti::Result (*)(__VA_ARGS__)>(dlsym(library, #name));    \
  if (api.name == nullptr) missing = #name;
#define TETRACE_OPTIONAL(name, ...) \
  api.name = reinterpret_cast<cupti::Result (*)(__VA_ARGS__)>(dlsym(library, #name));
  TETRACE_CUPTI_FUNCTIONS(TETRACE_NEEDED, TETRACE_OPTIONAL)
#undef TETRACE_NEEDED
#undef TETRACE_OPTIONAL
  return missing;
}

std::string path_of(void* function, const std::string& otherwise) {
  Dl_info info{};
  return dladdr(function, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : otherwise;
}

// "" when `api` is that library's now.
std::string try_library(const std::string& path, int flags, CuptiApi& api) {
  CuptiApi found;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | flags);
  if (library == nullptr) {
    const char* error = dlerror();
    return error == nullptr ? path + " cannot be loaded" : error;
  }
  const std::string missing = look_up(library, found);
  if (!missing.empty()) return path + " has no " + missing;
  const cupti::Result result = found.cuptiGetVersion(&found.version);
  if (result != cupti::success) return path + " does not work here: " + found.words(result);
  if (found.version < cupti::oldest_version) return path + " is older than CUDA 12.0";
  found.library = path_of(reinterpret_cast<void*>(found.cuptiGetVersion), path);
  api = found;
  return "";
}

}  // namespace

std::string CuptiApi::words(cupti::Result result) const {
  const char* text = nullptr;
  if (cuptiGetResultString(result, &text) != cupti::success || text == nullptr) text = "CUPTI's error";
  return std::string(text) + " (" + std::to_string(result) + ")";
}

CuptiApi load_cupti(const std::vector<std::string>& candidates, std::string& reason) {
  CuptiApi api;
  const std::vector<std::string> loaded = loaded_libraries("libcupti.so");
  if (!loaded.empty()) {
    reason = try_library(loaded.front(), RTLD_NOLOAD, api);
    return api;
  }
  reason.clear();
  std::vector<std::string> all = candidates;
  all.insert(all.end(), {"libcupti.so.13", "libcupti.so.12", "libcupti.so"});
  for (const std::string& path : all) {
    const std::string failure = try_library(path, RTLD_NODELETE, api);
    if (failure.empty()) return reason.clear(), api;
    reason += (reason.empty() ? "" : "; ") + failure;
  }
  return api;
}

}  // namespace tetrace::collector
