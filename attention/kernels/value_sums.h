#pragma once

// Sums of the values of all candidates: their mean stands for most of the values that a step does
// not attend to (TailMode::kEstimate).

#include "attention/kernels/gpu_types.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

// Adds those that have become candidates since the last call, all of them at first, to
// GpuLayer::value_sums. Sums of bfloat16 numbers in double are exact, so their order does not
// matter, as long as the numbers of a channel do not differ by more than 2^25. Rows that have been
// added must not change, nor tokens become fewer, unless the sums are set to zeros.
Status UpdateValueSums(const GpuLayer& layer, const GpuWindow& window, GpuStream stream);

}  // namespace pqcache::attention
