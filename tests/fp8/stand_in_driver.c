// A libcuda whose memory is the host's and whose launches leave what `fake_result` was given: what the ring of rows needs
// (csrc/fp8/driver.h, csrc/timing/driver.h). All is done as soon as it is asked for, unless `fake_hold` holds it back.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { NOT_READY = 600, BINS = 2048, COUNTERS = 128 };

// Of csrc/fp8/launch.h.
struct task {
  const void *data, *scale;
  uint64_t columns, row_stride;
  uint32_t rows, scale_stride, first_block, slot;
  uint16_t lanes, loads;
  uint32_t bins;
};
struct batch {
  uint8_t* counters;
  uint32_t* histograms;
  uint32_t count, layout, is_inverse;
  float bounds[5];
  struct task tasks[64];
};

// The first of csrc/fp8/launch.h's Counters that are used here.
struct counters {
  uint64_t nonzero, counts[5];
  double sums[3];
  uint32_t amax, smallest;
};

static struct counters counted;
static uint32_t bins[BINS];
static int is_held, capture_mode;
static int64_t copied_bytes;
static char* lowest;  // of the host's memory: of several pieces the last, which is the histograms' where there are some
static size_t piece;  // its length
static size_t reach;  // of what was copied there, from the lowest on

// What each tensor of the launches that follow has: elements that are not zero, bits of the largest and the smallest, and
// the counts of its bins.
void fake_result(uint64_t nonzero, uint32_t amax, uint32_t smallest, const uint32_t* histogram) {
  counted = (struct counters){.nonzero = nonzero, .amax = amax, .smallest = ~smallest};
  memcpy(bins, histogram, sizeof bins);
}
void fake_hold(int held) { is_held = held; }
int64_t fake_copied(void) { return copied_bytes; }
int64_t fake_reach(void) { return (int64_t)reach; }
void fake_reset(void) { is_held = 0, copied_bytes = 0, reach = 0; }

int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) { return *flags = 0, *active = 1, 0 * device; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = (void*)(uintptr_t)(device + 1), 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0 * device; }
int cuCtxGetCurrent(void** context) { return *context = (void*)(uintptr_t)1, 0; }
int cuCtxPushCurrent_v2(void* context) { return context == NULL; }
int cuCtxPopCurrent_v2(void** context) { return *context = NULL, 0; }
int cuCtxSynchronize(void) { return 0; }
int cuThreadExchangeStreamCaptureMode(int* mode) {
  const int before = capture_mode;
  capture_mode = *mode;
  return *mode = before, 0;
}
int cuStreamIsCapturing(void* stream, int* status) { return *status = 0, stream == NULL; }
int cuEventCreate(void** event, unsigned flags) { return *event = malloc(1), 0 * (int)flags; }
int cuEventDestroy_v2(void* event) { return free(event), 0; }
int cuEventRecord(void* event, void* stream) { return event == NULL && stream == NULL; }
int cuEventQuery(void* event) { return is_held && event != NULL ? NOT_READY : 0; }
int cuEventElapsedTime(float* ms, void* begin, void* end) { return *ms = 0, begin == NULL && end == NULL; }

int cuGetErrorName(int error, const char** name) { return *name = "CUDA_ERROR_STAND_IN", 0 * error; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { return *value = 132, 0 * (attribute + device); }
int cuModuleLoadData(void** module, const void* image) { return *module = (void*)image, 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) { return *function = module, name == NULL; }
int cuFuncSetAttribute(void* function, int attribute, int value) { return function == NULL && attribute == value; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads, size_t bytes) {
  return *blocks = 3, function == NULL && threads == (int)bytes;
}
int cuMemAlloc_v2(uint64_t* pointer, size_t bytes) { return *pointer = (uint64_t)(uintptr_t)malloc(bytes), *pointer == 0; }
int cuMemFree_v2(uint64_t pointer) { return free((void*)(uintptr_t)pointer), 0; }
int cuMemHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  *pointer = lowest = malloc(bytes);
  piece = bytes;
  return lowest == NULL && flags == 0;
}
int cuMemFreeHost(void* pointer) { return free(pointer), 0; }
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
  copied_bytes += (int64_t)bytes;
  const size_t end = (size_t)((char*)to + bytes - lowest);
  if ((char*)to >= lowest && end <= piece && end > reach) reach = end;
  return memcpy(to, (void*)(uintptr_t)from, bytes), stream == NULL;
}
int cuMemsetD8Async(uint64_t pointer, unsigned char value, size_t bytes, void* stream) {
  return memset((void*)(uintptr_t)pointer, value, bytes), stream == NULL;
}
int cuStreamCreate(void** stream, unsigned flags) { return *stream = (void*)(uintptr_t)2, 0 * (int)flags; }
int cuStreamDestroy_v2(void* stream) { return stream == NULL; }
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) { return stream == NULL && event == NULL && flags == 0; }
int cuStreamSynchronize(void* stream) { return stream == NULL; }

// Adds to what is there, as a kernel does, so that a slot that was not cleared shows.
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared_bytes, void* stream, void** parameters, void** extra) {
  const struct batch* batch = parameters[0];
  for (uint32_t i = 0; i < batch->count; ++i) {
    struct counters* to = (struct counters*)(batch->counters + (size_t)COUNTERS * batch->tasks[i].slot);
    to->nonzero += counted.nonzero;
    to->amax = to->amax > counted.amax ? to->amax : counted.amax;
    to->smallest = to->smallest > counted.smallest ? to->smallest : counted.smallest;
    uint32_t* histogram = batch->histograms + (size_t)BINS * batch->tasks[i].bins;
    for (int bin = 0; shared_bytes > 0 && bin < BINS; ++bin) histogram[bin] += bins[bin];
  }
  return function == NULL && x + y + z + threads + threads_y + threads_z == 0 && stream == (void*)extra;
}
