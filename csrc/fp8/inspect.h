// Tensors looked at once, outside any ring.
#pragma once

#include <cstddef>
#include <string>

#include "fp8/inspector.h"

namespace tetrace::fp8 {

// Allocates, launches on `stream` and waits for it. Throws where the driver refuses.
Taken inspect(int device, void* stream, const Tensor* tensors, std::size_t count, const Call& call,
              const std::string& library);

}  // namespace tetrace::fp8
