// Stands in for the driver, which is found by its name: streams from 50 to 99 are captured, and of stream 1 it cannot be asked.
// Calls of it are told to the stand-in for CUPTI.
#include <cstdint>

extern "C" __attribute__((visibility("default"))) int cuStreamIsCapturing(void* stream, int* status) {
  const auto number = reinterpret_cast<std::uintptr_t>(stream);
  *status = number >= 50 && number < 100;
  if (number != 1) return 0;
  *status = 1;
  return 906;  // CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, and the status says nothing
}

using Tell = void (*)(std::uint32_t call);
static Tell tell = nullptr;

extern "C" __attribute__((visibility("default"))) void stand_in_tell(Tell cupti) { tell = cupti; }

extern "C" __attribute__((visibility("default"))) int cuDriverGetVersion(int* version) {
  *version = 13000;
  if (tell != nullptr) tell(2);  // CUPTI_DRIVER_TRACE_CBID_cuDriverGetVersion
  return 0;
}
