#pragma once

// What the kernels of a decode step read and write. Plain data: every pointer is device memory
// unless a comment says otherwise, and is borrowed for as long as kernels on the stream run.
//
// Alphabet: B sequences, Hkv KV heads, G query heads of each, Hq = Hkv * G, D head size, M
// sub-spaces of K = 2^bits centroids, P pages of a table row, N candidates.
// A sequence's tokens lie in pages of kGpuPageTokens. A page table row names them by address, so
// sequences share the pages of a common prefix, and a page's rows may lie in pinned host memory.

#include <cstdint>

struct CUstream_st;

namespace pqcache::attention {

using GpuStream = CUstream_st*;  // a cudaStream_t; null: the default stream

inline constexpr int kGpuPageTokens = 64;
inline constexpr int kMaxGpuGroup = 8;  // G

inline int64_t GpuPagesOf(int64_t tokens) { return (tokens + kGpuPageTokens - 1) / kGpuPageTokens; }

// Keys, values, their sums and codes of one layer.
struct GpuLayer {
  int batch = 0;                         // B
  int kv_heads = 0;                      // Hkv
  int dim = 0;                           // D: 64 or 128
  int max_pages = 0;                     // P
  int bytes_per_key = 0;                 // of codes: 8, 16 or 32; 0: none are kept
  const int32_t* tokens = nullptr;       // [B] so far, those of this step included
  void* const* row_pages = nullptr;      // [B, P] of [Hkv, kGpuPageTokens, 2, D] bfloat16: K, V
  uint8_t* const* code_pages = nullptr;  // [B, P] of [Hkv, kGpuPageTokens, bytes_per_key]
  // Kept by UpdateValueSums, zeros at first.
  double* value_sums = nullptr;  // [B, Hkv, D] of the candidates before `summed`
  int32_t* summed = nullptr;     // [B, Hkv] a position
};

// Of one layer.
struct GpuCodebooks {
  int subspaces = 0;                       // M
  int bits = 0;                            // 4 or 8
  const float* centroids = nullptr;        // [Hkv, M, K, D/M]
  const float* half_norms = nullptr;       // [Hkv, M, K] half squared lengths
  const float* key_transform = nullptr;    // [Hkv, D, D], or null for the identity
  const float* query_transform = nullptr;  // likewise
  const float* residuals = nullptr;        // [Hkv] HeadCodebook::residual()
  // PositionMean::averaged() of the heads [Hkv, D], or null: what keys are on average at their
  // place is taken off before they are coded.
  const float* position_means = nullptr;
  int pairs = 0;                   // of its channels that the place turns
  const double* phases = nullptr;  // [P, pairs, 2] cosines and sines of the middles of pages
};

// Which tokens a step attends to in any case; the others are candidates.
struct GpuWindow {
  int n_sink = 0;        // the first so many
  int local_window = 1;  // and the newest
};

}  // namespace pqcache::attention
