#include "collector/cupti_api.h"

#include <dlfcn.h>

#include "collector/surroundings.h"

namespace tetrace::collector {
namespace {

const std::string& library_name = *new std::string("libcupti");

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

// "" when `api` is that library's now; else what is wrong with it.
std::string try_library(const std::string& path, int flags, CuptiApi& api) {
  CuptiApi found;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | flags);
  if (library == nullptr) {
    const char* error = dlerror();
    return std::string("cannot be loaded") + (error == nullptr ? "" : std::string(" (") + error + ")");
  }
  const std::string missing = look_up(library, found);
  if (!missing.empty()) return "has no " + missing;
  const cupti::Result result = found.cuptiGetVersion(&found.version);
  if (result != cupti::success) return "does not work here: " + found.words(result);
  if (found.version < cupti::oldest_version) return "is older than CUDA 12.0";
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

namespace {

// Two of them in a process break both.
CuptiApi use_loaded(const std::string& path, std::string& reason) {
  CuptiApi api;
  const std::string failure = try_library(path, RTLD_NOLOAD, api);
  if (failure.empty()) return api;
  std::string users;
  for (const std::string& user : users_of_library(library_name)) users += (users.empty() ? "" : ", ") + user;
  reason = path + ", which this process has loaded already (" +
           (users.empty() ? "something opened it by its name" : "for " + users) + "), " + failure +
           ", and a second one beside it would break both; update what brings it, or record with --collector nsys";
  return api;
}

}  // namespace

CuptiApi load_cupti(const std::vector<std::string>& candidates, std::string& reason) {
  reason.clear();
  const std::vector<std::string> loaded = loaded_libraries(library_name);
  if (!loaded.empty()) return use_loaded(loaded.front(), reason);
  CuptiApi api;
  std::vector<std::string> all = candidates;
  all.insert(all.end(), {"libcupti.so.13", "libcupti.so.12", "libcupti.so"});
  for (const std::string& path : all) {
    const std::string failure = try_library(path, RTLD_NODELETE, api);
    if (failure.empty()) return reason.clear(), api;
    reason += (reason.empty() ? "" : "; ") + path + " " + failure;
  }
  reason = "no libcupti can be used: " + reason + "; pip install nvidia-cuda-cupti";
  return api;
}

}  // namespace tetrace::collector
