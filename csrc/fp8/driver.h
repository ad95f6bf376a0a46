// What of CUDA's driver launches and copies need, beside what timing knows (csrc/timing/driver.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "timing/driver.h"

namespace tetrace::fp8 {

using Pointer = std::uint64_t;  // CUdeviceptr
using Function = void*;         // CUfunction
using timing::Handle;
using timing::Stream;

// CUdevice_attribute, CUfunction_attribute, flags (cuda.h).
constexpr int multiprocessor_count = 16;
constexpr int max_dynamic_shared_bytes = 8;
constexpr unsigned stream_non_blocking = 1;
constexpr unsigned event_disable_timing = 2;

struct Driver {
  const timing::Driver* base;
  int (*error_name)(int error, const char** name);
  int (*driver_version)(int* version);
  int (*attribute)(int* value, int attribute, int device);
  int (*module_load)(void** module, const void* image);
  int (*module_function)(Function*, void* module, const char* name);
  int (*function_set)(Function, int attribute, int value);
  int (*blocks_per_multiprocessor)(int* blocks, Function, int threads, std::size_t shared_bytes);
  int (*launch)(Function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                unsigned block_z, unsigned shared_bytes, Stream, void** parameters, void** extra);
  int (*allocate)(Pointer*, std::size_t bytes);
  int (*release)(Pointer);
  int (*host_allocate)(void**, std::size_t bytes, unsigned flags);
  int (*host_release)(void*);
  int (*copy_out)(void* to, Pointer from, std::size_t bytes, Stream);
  int (*clear)(Pointer, unsigned char value, std::size_t bytes, Stream);
  int (*stream_create)(Stream*, unsigned flags);
  int (*stream_destroy)(Stream);
  int (*stream_wait)(Stream, Handle event, unsigned flags);
  int (*stream_synchronize)(Stream);
  int (*context_synchronize)();
};

// Loaded once. Throws with the reason when `library` does not load or lacks a function.
const Driver& load_driver(const std::string& library);

// `CUDA_ERROR_...`, or the number where the driver has no name for it.
std::string name_of(const Driver& driver, int error);

}  // namespace tetrace::fp8
