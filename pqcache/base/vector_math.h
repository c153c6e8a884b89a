#pragma once

// The few loops over float rows that everything else is made of. Each is compiled for several
// instruction sets and chosen once, when the program starts. Sums are taken in 16 fixed lanes that
// are joined by halves, and products are not fused, so every instruction set gives the same bits.
// Thread-safe.

#include <cstdint>

namespace pqcache {

// Sum of a[i] * b[i], i in [0, n).
float Dot(const float* a, const float* b, int64_t n);

// scores[r] = scale * <query, rows + r * stride>, r in [0, count); rows of n floats.
void DotRows(const float* query, const float* rows, int64_t stride, int64_t count, int64_t n,
             float scale, float* scores);

// The length of x [N], summed in double.
double Length(const float* x, int64_t n);

// y[i] += a * x[i].
void AddScaled(float a, const float* x, int64_t n, float* y);

// x[i] = exp(x[i] - shift); returns the sum. Relative error below 3e-7. Differences below -87 give
// 0, those above 88 count as 88 (results stay finite), NaN stays NaN.
float ExpInPlace(float* x, int64_t n, float shift);

// log(sum of exp(x[i])); the exponentials are floats, their sum is not. -infinity for n = 0.
double LogSumExp(const float* x, int64_t n);
// log(exp(a) + exp(b)).
double LogAddExp(double a, double b);

// Largest element; -infinity for n = 0; NaNs are ignored.
float MaxOf(const float* x, int64_t n);

// Smallest element; infinity for n = 0; NaNs are ignored.
float MinOf(const float* x, int64_t n);

// False if any element is NaN or infinite.
bool AllFinite(const float* x, int64_t n);

// out[i] = float of the bfloat16 bits x[i].
void BFloat16ToFloats(const uint16_t* x, int64_t n, float* out);

}  // namespace pqcache
