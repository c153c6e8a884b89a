#pragma once

// The element-wise parts of a layer, on float32 rows. Pure functions.

#include <cstdint>

#include "attention/model/model_spec.h"

namespace pqcache::attention {

// y [N, size]: each row of x divided by its root mean square, times weight [size].
void RmsNorm(int64_t n, int64_t size, const float* x, const float* weight, double eps, float* y);

// y [N, size]: each row of x with mean 0 and variance 1, times weight, plus bias [size].
void LayerNorm(int64_t n, int64_t size, const float* x, const float* weight, const float* bias,
               double eps, float* y);

// x[i] = activation(x[i]).
void Activate(Activation activation, int64_t n, float* x);

}  // namespace pqcache::attention
