#include "collector/surroundings.h"

#include <link.h>

#include <cstdlib>
#include <cstring>

namespace tetrace::collector {
namespace {

struct Search {
  const std::string& name;
  std::vector<std::string> found;
};

const char* name_in(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

// Whether a file is some version of the library called so, also one that auditwheel gave a hash: libcupti-1a2b3c.so.13.
bool is_library(const char* file, const std::string& name) {
  if (std::strncmp(file, name.c_str(), name.size()) != 0) return false;
  const char* rest = file + name.size();
  if (*rest == '-') rest += 1 + std::strspn(rest + 1, "0123456789abcdef");
  return std::strncmp(rest, ".so", 3) == 0;
}

const char* path_of(const dl_phdr_info& info) { return info.dlpi_name == nullptr ? "" : info.dlpi_name; }

int visit(dl_phdr_info* info, std::size_t, void* state) {
  auto& search = *static_cast<Search*>(state);
  if (is_library(name_in(path_of(*info)), search.name)) search.found.emplace_back(path_of(*info));
  return 0;
}

int visit_part(dl_phdr_info* info, std::size_t, void* state) {
  auto& search = *static_cast<Search*>(state);
  const char* path = path_of(*info);
  if (std::strstr(name_in(path), search.name.c_str()) != nullptr) search.found.emplace_back(path);
  return 0;
}

const ElfW(Dyn)* dynamic_section(const dl_phdr_info& info) {
  for (int segment = 0; segment < info.dlpi_phnum; ++segment) {
    const auto& header = info.dlpi_phdr[segment];
    if (header.p_type == PT_DYNAMIC) return reinterpret_cast<const ElfW(Dyn)*>(info.dlpi_addr + header.p_vaddr);
  }
  return nullptr;
}

// Whether its list of needed libraries has the one called so.
bool needs(const dl_phdr_info& info, const std::string& name) {
  const ElfW(Dyn)* first = dynamic_section(info);
  const char* texts = nullptr;
  for (const ElfW(Dyn)* entry = first; entry != nullptr && entry->d_tag != DT_NULL; ++entry) {
    // Some loaders leave the address as it is in the file.
    const bool is_placed = entry->d_un.d_ptr >= info.dlpi_addr;
    if (entry->d_tag == DT_STRTAB) {
      texts = reinterpret_cast<const char*>(entry->d_un.d_ptr + (is_placed ? 0 : info.dlpi_addr));
    }
  }
  for (const ElfW(Dyn)* entry = first; texts != nullptr && entry->d_tag != DT_NULL; ++entry) {
    if (entry->d_tag != DT_NEEDED) continue;
    if (is_library(name_in(texts + entry->d_un.d_val), name)) return true;
  }
  return false;
}

int visit_user(dl_phdr_info* info, std::size_t, void* state) {
  auto& search = *static_cast<Search*>(state);
  const char* name = name_in(path_of(*info));
  // What the kernel maps (linux-vdso) needs nothing, and its addresses are of another kind.
  if (std::strncmp(name, "linux-", 6) != 0 && needs(*info, search.name)) {
    search.found.emplace_back(*name == '\0' ? "the program" : name);
  }
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
    {"libproton", "Triton's Proton"},
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

std::vector<std::string> loaded_libraries(const std::string& name) {
  Search search{name, {}};
  dl_iterate_phdr(visit, &search);
  return search.found;
}

std::vector<std::string> users_of_library(const std::string& name) {
  Search search{name, {}};
  dl_iterate_phdr(visit_user, &search);
  return search.found;
}

std::string other_tools() {
  std::string tools;
  for (const Sign& sign : libraries) {
    const std::string part = sign.text;
    Search search{part, {}};
    dl_iterate_phdr(visit_part, &search);
    if (!search.found.empty()) add(tools, sign.tool, search.found.front());
  }
  for (const Sign& sign : variables) {
    if (std::getenv(sign.text) != nullptr) add(tools, sign.tool, std::string(sign.text) + " is set");
  }
  return tools;
}

}  // namespace tetrace::collector
