#pragma once

// How blocks of a kernel wait for each other or find out which of them is the last. What a block
// has written before is seen by those that it lets go on.

#include <cuda_runtime.h>

namespace pqcache::attention {

__device__ inline unsigned Arrive(unsigned* counter) {
  unsigned before;
  asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// Waits until `blocks` blocks have come here. All of them run at the same time. The counter is zero
// before the first meeting of a launch and is counted on by every one.
__device__ inline void MeetOtherBlocks(unsigned* counter, unsigned blocks) {
  __syncthreads();
  if (blocks == 1) return;
  if (threadIdx.x == 0) {
    const unsigned all = (Arrive(counter) / blocks + 1) * blocks;
    unsigned now;
    do {
      asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
    } while (int(now - all) < 0);
  }
  __syncthreads();
}

// Whether this block of gridDim.x is the last to come here. The counter is zero before and after.
__device__ inline bool FinishesLast(unsigned* counter, bool* shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    *shared = Arrive(counter) == gridDim.x - 1;
    if (*shared) *counter = 0;
  }
  __syncthreads();
  return *shared;
}

}  // namespace pqcache::attention
