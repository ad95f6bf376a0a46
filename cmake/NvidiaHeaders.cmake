# Finds headers of NVIDIA's; nothing of NVIDIA is linked. Sets, where they are found,
#   TETRACE_NVTX_INCLUDE   folder of nvtx3/nvToolsExt.h
#   TETRACE_CUDA_INCLUDE   folders of cupti.h, cuda.h and what they include
# Both may be given instead. NVIDIA's packages come first, because they are build requirements (pyproject.toml) and so
# the same on every machine; a CUDA toolkit serves a build without isolation.

include(CheckCXXSourceCompiles)

execute_process(
  COMMAND ${Python_EXECUTABLE} -c "from importlib.util import find_spec as f; s = f('nvidia'); print(';'.join(s.submodule_search_locations or []) if s else '')"
  OUTPUT_VARIABLE nvidia_packages OUTPUT_STRIP_TRAILING_WHITESPACE)
file(GLOB toolkits /usr/local/cuda /usr/local/cuda-*)

# Folders of one installation are joined by `|`. Packages for CUDA 13 share a folder, those for CUDA 12 have one each.
set(installations)
foreach(package IN LISTS nvidia_packages)
  file(GLOB folders ${package}/cu13/include)
  list(APPEND installations ${folders})
  file(GLOB folders ${package}/cuda_*/include ${package}/nvtx/include)
  list(JOIN folders "|" joined)
  list(APPEND installations ${joined})
endforeach()
foreach(toolkit IN ITEMS $ENV{CUDA_HOME} $ENV{CUDA_PATH} ${toolkits} /usr)
  list(APPEND installations "${toolkit}/include|${toolkit}/extras/CUPTI/include")
endforeach()

string(REPLACE "|" ";" folders "${installations}")
find_path(TETRACE_NVTX_INCLUDE nvtx3/nvToolsExt.h HINTS ${folders})

# Whether cupti.h can be included from these folders. Compiled, because what it includes is spread over three packages. A
# CUDA that layouts_check.cpp does not know is not to stop anybody's build.
function(check_cupti folders)
  set(CMAKE_REQUIRED_INCLUDES ${folders})
  set(CMAKE_REQUIRED_QUIET ON)
  unset(tetrace_has_cupti CACHE)
  check_cxx_source_compiles("
    #include <cupti.h>
    static_assert(CUDA_VERSION >= 12000 && CUDA_VERSION <= 13050, \"\");
    int main() {}" tetrace_has_cupti)
endfunction()

set(TETRACE_CUDA_INCLUDE "" CACHE STRING "Folders of cupti.h, cuda.h and what they include")
if(NOT TETRACE_CUDA_INCLUDE)
  foreach(installation IN LISTS installations)
    string(REPLACE "|" ";" folders "${installation}")
    check_cupti("${folders}")
    if(tetrace_has_cupti)
      set(TETRACE_CUDA_INCLUDE ${folders})
      break()
    endif()
  endforeach()
endif()
