// What two values, already times their scale, lose when they are cast to FP8 and clipped to its largest value.
#pragma once

#include "fp8/launch.h"
#include "fp8/numbers.cuh"

namespace tetrace::fp8 {

// By arithmetic, where nothing is clipped or some is; or by the GPU's own cast, which clips.
enum class Cast { none, rounding, clipping, e4m3, e5m2 };

// GPUs cast from compute capability 8.9 on.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
constexpr bool has_casts = true;

template <Cast cast>
__device__ inline u32 as_halves(float low, float high) {
  unsigned short codes;
  u32 halves;
  if (cast == Cast::e4m3) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
  } else {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
    asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"(codes));
  }
  return halves;
}
#else
constexpr bool has_casts = false;

template <Cast cast>
__device__ inline u32 as_halves(float, float) {
  return 0;
}
#endif

template <Cast cast>
__device__ inline void lost_in(const float (&products)[2], const Bounds& bounds, float (&lost)[2]) {
  if constexpr (cast == Cast::e4m3 || cast == Cast::e5m2) {
    float values[2];
    Fp16::widen(as_halves<cast>(products[0], products[1]), values[0], values[1]);
    lost[0] = products[0] - values[0];
    lost[1] = products[1] - values[1];
  } else {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      lost[j] = rounding(products[j], bounds.smallest_normal, bounds.magic);
      if (cast == Cast::clipping && fabsf(products[j]) > bounds.max) lost[j] = fabsf(products[j]) - bounds.max;
    }
  }
}

}  // namespace tetrace::fp8
