#pragma once

// Exact attention of one query token of each sequence to its sinks, its window and the tokens of a
// list, or to all tokens: flash-decoding over gathered rows, in one launch.
//
// Products run on tensor cores in bfloat16 with float32 sums; queries and weights are split into
// two bfloat16 numbers each, so that only the rows themselves are rounded.
// Source of the method: Dao et al., "Flash-Decoding for long-context inference", 2023.

#include "attention/kernels/gpu_types.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

struct SparseDecodeParams {
  GpuLayer layer;
  GpuWindow window;
  int group = 1;                   // G
  bool per_head = false;           // a list for each query head, else for each KV head
  const float* queries = nullptr;  // [B, Hq, D]
  float scale = 1;                 // of inner products
  // As SelectTokens writes them; null: every token is attended.
  const int32_t* positions = nullptr;  // [lists, max_selected]
  const int32_t* counts = nullptr;     // [lists]
  int max_selected = 0;
  void* workspace = nullptr;  // SparseDecodeWorkspaceBytes, zeros before the first call
  float* out = nullptr;       // [B, Hq, D]
  // [B, Hq], both or neither null: log of the mass that is not attended, and what their
  // estimated share of the attention mass is added to.
  const float* unselected_lse = nullptr;
  float* missed_mass = nullptr;
  // Needs those, a list, and UpdateValueSums before: the tokens that are not attended join with
  // that share. Of it so much has the values of the listed tokens, as attention to those alone
  // mixes them, the rest the mean value of all candidates; all of it where none are listed.
  bool estimate_tail = false;
  float tail_like_chosen = 0;
};

// Of the parameters only shapes are read.
size_t SparseDecodeWorkspaceBytes(const SparseDecodeParams& params);

// InvalidArgument for shapes that the kernels do not have, naming those they do.
Status SparseDecode(const SparseDecodeParams& params, GpuStream stream);

}  // namespace pqcache::attention
