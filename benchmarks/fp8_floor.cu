// The fastest plain read of memory: what a kernel that looks at every byte cannot be faster than.
#include <cuda_runtime.h>

template <int loads>
__global__ void read(const uint4* __restrict__ data, unsigned long long vectors, unsigned* seen) {
  const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x * loads;
  unsigned mixed = 0;
  for (unsigned long long at = static_cast<unsigned long long>(blockIdx.x) * blockDim.x * loads + threadIdx.x; at < vectors;
       at += stride) {
    uint4 loaded[loads];
#pragma unroll
    for (int i = 0; i < loads; ++i) {
      const unsigned long long place = at + static_cast<unsigned long long>(i) * blockDim.x;
      loaded[i] = place < vectors ? __ldg(data + place) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < loads; ++i) mixed ^= loaded[i].x ^ loaded[i].y ^ loaded[i].z ^ loaded[i].w;
  }
  if (mixed == 0x9E3779B9u) *seen = mixed;  // never, but the compiler cannot know
}

extern "C" int launch_read(const void* data, unsigned long long bytes, int loads, int blocks, int threads, void* seen,
                           void* stream) {
  const auto* vectors = static_cast<const uint4*>(data);
  auto* out = static_cast<unsigned*>(seen);
  const auto queue = static_cast<cudaStream_t>(stream);
  if (loads == 1) read<1><<<blocks, threads, 0, queue>>>(vectors, bytes / 16, out);
  if (loads == 2) read<2><<<blocks, threads, 0, queue>>>(vectors, bytes / 16, out);
  if (loads == 4) read<4><<<blocks, threads, 0, queue>>>(vectors, bytes / 16, out);
  if (loads == 8) read<8><<<blocks, threads, 0, queue>>>(vectors, bytes / 16, out);
  return static_cast<int>(cudaGetLastError());
}
