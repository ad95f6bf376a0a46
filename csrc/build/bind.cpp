// What this extension was built with, and what was left out of the build. CMakeLists.txt defines the macros.
#include "build/bind.h"

#if defined(TETRACE_CUDA)
#include <cuda.h>
#endif

namespace py = pybind11;

namespace tetrace::build {
namespace {

#if defined(TETRACE_CUDA)
constexpr int cuda_version = CUDA_VERSION;
#else
constexpr int cuda_version = 0;
#endif

#if defined(TETRACE_NVTX)
constexpr bool has_nvtx = true;
#else
constexpr bool has_nvtx = false;
#endif

py::dict build_info() {
  const py::str no_collector(TETRACE_NO_COLLECTOR);
  py::dict info;
  info["system"] = TETRACE_SYSTEM;
  info["compiler"] = TETRACE_COMPILER;
  info["cuda_headers"] = cuda_version;
  info["nvtx"] = has_nvtx;
  info["collector"] = py::len(no_collector) == 0;
  info["no_collector"] = no_collector;
  const py::str no_fp8(TETRACE_NO_FP8);
  info["fp8"] = py::len(no_fp8) == 0;
  info["no_fp8"] = no_fp8;
  return info;
}

}  // namespace

void bind(py::module_& module) { module.def("build_info", &build_info); }

}  // namespace tetrace::build
