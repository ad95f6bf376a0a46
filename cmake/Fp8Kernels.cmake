# Makes one file of the kernels in csrc/fp8, for several architectures, which csrc/fp8/kernels.cpp has as it is. Nothing
# of CUDA is linked. Sets `no_fp8` where there is no nvcc that can.
#   TETRACE_NVCC           nvcc; those of NVIDIA's packages and of CUDA toolkits are found
#   TETRACE_ARCHITECTURES  compute capabilities with machine code; PTX for 9.0 serves those that come later

set(hints)
foreach(package IN LISTS nvidia_packages)
  list(APPEND hints ${package}/cu13/bin)
endforeach()
foreach(toolkit IN ITEMS $ENV{CUDA_HOME} $ENV{CUDA_PATH} ${toolkits})
  list(APPEND hints ${toolkit}/bin)
endforeach()
find_program(TETRACE_NVCC nvcc HINTS ${hints})
set(TETRACE_ARCHITECTURES "80;90;100" CACHE STRING "Compute capabilities that the FP8 kernels are compiled for")

# Which of them this nvcc knows, in `codes`.
set(codes)
if(TETRACE_NVCC)
  execute_process(COMMAND ${TETRACE_NVCC} --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
  execute_process(COMMAND ${TETRACE_NVCC} --version OUTPUT_VARIABLE version ERROR_QUIET)
  string(REGEX MATCH "release ([0-9.]+)" matched "${version}")
  set(nvcc_cuda "${CMAKE_MATCH_1}")
  foreach(architecture IN LISTS TETRACE_ARCHITECTURES)
    if(known MATCHES "sm_${architecture}\n")
      list(APPEND codes -gencode=arch=compute_${architecture},code=sm_${architecture})
    endif()
  endforeach()
endif()

if(NOT codes)
  set(no_fp8 nvcc)
  return()
endif()
list(APPEND codes -gencode=arch=compute_90,code=compute_90)
# A tenth of the size; drivers that run what this nvcc makes read it.
if(nvcc_cuda VERSION_GREATER_EQUAL 12.8)
  list(APPEND codes --compress-mode=size)
endif()
set(nvcc_flags -std=c++17 -O3 -ccbin ${CMAKE_CXX_COMPILER} -allow-unsupported-compiler -I${PROJECT_SOURCE_DIR}/csrc)

# nvcc may lack what it needs: its headers and its optimizer are packages of their own.
set(trial ${CMAKE_CURRENT_BINARY_DIR}/fp8_trial)
file(WRITE ${trial}.cu "#include <cstdint>\n__global__ void trial(std::uint32_t* to) { *to = __reduce_add_sync(~0u, *to); }\n")
execute_process(
  COMMAND ${TETRACE_NVCC} -fatbin ${nvcc_flags} ${codes} -o ${trial}.fatbin ${trial}.cu
  RESULT_VARIABLE failed OUTPUT_QUIET ERROR_VARIABLE why)
if(failed)
  message(STATUS "The FP8 kernels are left out, ${TETRACE_NVCC} cannot compile: ${why}")
  set(no_fp8 nvcc)
  return()
endif()

set(image ${CMAKE_CURRENT_BINARY_DIR}/fp8_kernels.fatbin)
file(GLOB kernel_headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/fp8/*.cuh)
add_custom_command(
  OUTPUT ${image}
  COMMAND ${TETRACE_NVCC} -fatbin --threads 0 ${nvcc_flags} ${codes} -o ${image} ${PROJECT_SOURCE_DIR}/csrc/fp8/tensor_stats.cu
  DEPENDS ${PROJECT_SOURCE_DIR}/csrc/fp8/tensor_stats.cu ${kernel_headers} ${PROJECT_SOURCE_DIR}/csrc/fp8/launch.h
    ${PROJECT_SOURCE_DIR}/csrc/fp8/row.h
  COMMENT "FP8 kernels for compute capabilities ${TETRACE_ARCHITECTURES}, with CUDA ${nvcc_cuda}"
  VERBATIM)
set(kernels_source ${PROJECT_SOURCE_DIR}/csrc/fp8/kernels.cpp)
set_property(SOURCE ${kernels_source} APPEND PROPERTY COMPILE_DEFINITIONS
  TETRACE_FP8_IMAGE="${image}" TETRACE_FP8_CUDA="${nvcc_cuda}")
set_property(SOURCE ${kernels_source} APPEND PROPERTY OBJECT_DEPENDS ${image})
