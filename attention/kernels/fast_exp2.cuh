#pragma once

namespace pqcache::attention {

constexpr float kLog2E = 1.4426950408889634f;

// 2^x to two units in the last place; results below 2^-126 are 0.
__device__ inline float FastExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace pqcache::attention
