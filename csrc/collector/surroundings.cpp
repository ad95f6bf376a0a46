#include "collector/surroundings.h"

#include <link.h>

#include <cstdlib>
#include <cstring>

namespace tetrace::collector {
namespace {

struct Search {
  const std::string& part;
  std::vector<std::string> found;
};

int visit(dl_phdr_info* info, std::size_t, void* state) {
  auto& search = *static_cast<Search*>(state);
  const char* path = info->dlpi_name == nullptr ? "" : info->dlpi_name;
  const char* slash = std::strrchr(path, '/');
  if (std::strstr(slash == nullptr ? path : slash, search.part.c_str()) != nullptr) search.found.emplace_back(path);
  return 0;
}

struct Sign {
  const char* text;
  const char* tool;
};

constexpr Sign libraries[] = {
    {"libToolsInjection", "Nsight Systems"},
    {"libcuda-injection", "Nsight Compute"},
    {"TreeLauncher", "Nsight Compute"},
    {"libcudadebugger", "cuda-gdb"},
    {"libsanitizer-collection", "compute-sanitizer"},
    {"libdcgm", "DCGM"},
};

constexpr Sign variables[] = {
    {"NSYS_PROFILING_SESSION_ID", "Nsight Systems"},
    {"NV_NSIGHT_INJECTION_PORT_BASE", "Nsight Compute"},
    {"NV_COMPUTE_PROFILER_PERFWORKS_DIR", "Nsight Compute"},
};

void add(std::string& tools, const char* tool, const std::string& sign) {
  if (tools.find(tool) != std::string::npos) return;
  tools += (tools.empty() ? "" : ", ") + std::string(tool) + " (" + sign + ")";
}

}  // namespace

std::vector<std::string> loaded_libraries(const std::string& part_of_name) {
  Search search{part_of_name, {}};
  dl_iterate_phdr(visit, &search);
  return search.found;
}

std::string other_tools() {
  std::string tools;
  for (const Sign& sign : libraries) {
    const std::vector<std::string> found = loaded_libraries(sign.text);
    if (!found.empty()) add(tools, sign.tool, found.front());
  }
  for (const Sign& sign : variables) {
    if (std::getenv(sign.text) != nullptr) add(tools, sign.tool, std::string(sign.text) + " is set");
  }
  return tools;
}

}  // namespace tetrace::collector
