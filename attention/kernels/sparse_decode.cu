// Blocks of a list share its rows; a warp takes 16 of them at a time, copies their K and V into
// shared memory, while other warps hide the wait, and keeps its own running softmax. Warps join in
// the block, blocks in the last one that finishes.
//
// Columns of the products are queries: four queries and, in four more columns, what bfloat16
// leaves of them; with more than four, two such products.
// With a tail estimate this is done twice, for what every step attends to and for the list, whose
// mix of values the estimate needs apart.
// Reads 4 D bytes for each row; writes D + 2 floats for each block and query, twice for an
// estimate.

#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "attention/kernels/dispatch.cuh"
#include "attention/kernels/fast_exp2.cuh"
#include "attention/kernels/gpu_shapes.h"
#include "attention/kernels/launch.cuh"
#include "attention/kernels/list_place.cuh"
#include "attention/kernels/meeting.cuh"
#include "attention/kernels/sparse_decode.h"
#include "attention/kernels/tensor_core.cuh"
#include "pqcache/base/check.h"

namespace pqcache::attention {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileRows = 16;
constexpr int kTilesAhead = 1;   // of a warp, in shared memory; other warps hide the wait for it
constexpr int kTileQueries = 4;  // of one product
constexpr float kLn2 = 0.6931471805599453f;

struct Workspace {
  unsigned* blocks_done;  // [lists]
  // [lists, sections, blocks, queries, D + 2]: output, maximum, sum
  float* parts;
  // Sections: all rows; or those always attended to, then those of the list.
  int lists, sections, queries, blocks;
};

// Where a list's rows lie.
struct Rows {
  const int32_t* list;  // null: all
  int sinks, always, total, window_begin;
  void* const* pages;
  size_t head_offset, row_bytes;

  __device__ const char* Address(int i) const {
    int position = i;
    if (list != nullptr && i >= sinks) {
      position = i < always ? window_begin + i - sinks : __ldg(list + (i - always));
    }
    const auto* page = static_cast<const char*>(pages[position / kGpuPageTokens]);
    return page + head_offset + position % kGpuPageTokens * row_bytes;
  }
};

__device__ Rows RowsOf(const SparseDecodeParams& p, int list, int head, int sequence) {
  Rows rows;
  const int tokens = p.layer.tokens[sequence];
  rows.list = p.positions == nullptr ? nullptr : p.positions + size_t(list) * p.max_selected;
  rows.window_begin = max(0, tokens - p.window.local_window);
  rows.sinks = min(p.window.n_sink, rows.window_begin);
  rows.always = rows.sinks + tokens - rows.window_begin;
  rows.total = rows.list == nullptr ? tokens : rows.always + p.counts[list];
  rows.pages = p.layer.row_pages + size_t(sequence) * p.layer.max_pages;
  rows.row_bytes = size_t(4) * p.layer.dim;
  rows.head_offset = size_t(head) * kGpuPageTokens * rows.row_bytes;
  return rows;
}

// A warp's attention so far, in fragments: of query column 2t + i.
template <int kDim, int kProducts>
struct WarpState {
  float max[kProducts][2], sum[kProducts][2];
  float out[kProducts][kDim / 16][4];  // rows are dimensions
  uint32_t queries[kProducts][kDim / 16][2];
};

// Queries times scale * log2(e), whole parts in columns 0 to 3, remainders in 4 to 7.
template <int kDim, int kProducts>
__device__ void LoadQueries(const float* queries, int count, float scale,
                            WarpState<kDim, kProducts>* state) {
  const int column = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int p = 0; p < kProducts; ++p) {
    const int q = p * kTileQueries + column % kTileQueries;
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float x[2] = {};
        for (int j = 0; j < 2; ++j) {
          if (q < count) x[j] = queries[q * kDim + i * 16 + half * 8 + 2 * t + j] * scale * kLog2E;
          const float whole = __bfloat162float(__float2bfloat16_rn(x[j]));
          x[j] = column < kTileQueries ? whole : x[j] - whole;
        }
        state->queries[p][i][half] = PackBFloat16(x[0], x[1]);
      }
    }
  }
}

// 16 rows from `first` on into `to`, 16-byte pieces exchanged so that neighbouring rows' pieces lie
// in different banks. Rows from `end` on are copies of the one before.
template <int kDim>
__device__ void FetchTile(const Rows& rows, int first, int end, char* to) {
  constexpr int kPieces = kDim / 4;  // of a row
  const int lane = threadIdx.x % 32;
  const auto address =
      reinterpret_cast<unsigned long long>(rows.Address(min(first + lane % kTileRows, end - 1)));
#pragma unroll
  for (int i = 0; i < kTileRows * kPieces / 32; ++i) {
    const int row = (i * 32 + lane) / kPieces, piece = (i * 32 + lane) % kPieces;
    const auto* from = reinterpret_cast<const char*>(__shfl_sync(~0u, address, row));
    CopyAsync(to + (row * kPieces + (piece ^ row % 8)) * 16, from + piece * 16);
  }
}

template <int kDim, int kProducts>
__device__ void AttendTile(const char* tile, int valid, WarpState<kDim, kProducts>* state) {
  constexpr int kPieces = kDim / 4;
  const int lane = threadIdx.x % 32, row = lane / 4;
  const auto piece_at = [&](int r, int piece) {
    return tile + (r * kPieces + (piece ^ r % 8)) * 16;
  };
  float logits[kProducts][4] = {};
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    uint32_t keys[4];
    LoadMatrices(piece_at(lane % 16, 2 * i + lane / 16), keys);
#pragma unroll
    for (int p = 0; p < kProducts; ++p) MultiplyAdd(keys, state->queries[p][i], logits[p]);
  }
  uint32_t weights[kProducts][2];
#pragma unroll
  for (int p = 0; p < kProducts; ++p) {
    float(&s)[4] = logits[p];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[i] += __shfl_xor_sync(~0u, s[i], 2);  // whole parts and remainders
      if (row + (i < 2 ? 0 : 8) >= valid) s[i] = -INFINITY;
    }
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float most = fmaxf(s[i], s[i + 2]);
      for (int distance = 4; distance < 32; distance *= 2) {
        most = fmaxf(most, __shfl_xor_sync(~0u, most, distance));
      }
      most = fmaxf(most, state->max[p][i]);
      factor[i] = FastExp2(state->max[p][i] - most);
      state->max[p][i] = most;
      s[i] = FastExp2(s[i] - most);
      s[i + 2] = FastExp2(s[i + 2] - most);
      state->sum[p][i] = state->sum[p][i] * factor[i] + s[i] + s[i + 2];
    }
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) state->out[p][i][j] *= factor[j % 2];
    }
    const bool remainders = threadIdx.x % 4 >= 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float whole = __bfloat162float(__float2bfloat16_rn(s[i]));
      s[i] = remainders ? s[i] - whole : whole;
    }
    weights[p][0] = Transpose(PackBFloat16(s[0], s[1]));
    weights[p][1] = Transpose(PackBFloat16(s[2], s[3]));
  }
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    uint32_t values[4];
    LoadMatricesTransposed(piece_at(lane % 8 + lane / 16 * 8, kPieces / 2 + 2 * i + lane / 8 % 2),
                           values);
#pragma unroll
    for (int p = 0; p < kProducts; ++p) MultiplyAdd(values, weights[p], state->out[p][i]);
  }
}

// The warp's share of rows [begin, end), through its part of the shared memory, into a new state.
template <int kDim, int kProducts>
__device__ void AttendRows(const Rows& rows, int begin, int end, char* tiles,
                           WarpState<kDim, kProducts>* state) {
  constexpr int kTileBytes = kTileRows * kDim * 4;
#pragma unroll
  for (int p = 0; p < kProducts; ++p) {
#pragma unroll
    for (int i = 0; i < 2; ++i) state->max[p][i] = -INFINITY, state->sum[p][i] = 0;
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) state->out[p][i][j] = 0;
    }
  }
  const int step = gridDim.x * kWarps * kTileRows;
  const int first = begin + (blockIdx.x * kWarps + threadIdx.x / 32) * kTileRows;
  int fetch = first;
  for (int i = 0; i < kTilesAhead; ++i, fetch += step) {
    if (fetch < end) FetchTile<kDim>(rows, fetch, end, tiles + i * kTileBytes);
    CommitCopies();
  }
  int at = 0;
  for (int row = first; row < end; row += step, fetch += step) {
    WaitForCopies<kTilesAhead - 1>();
    __syncwarp();
    AttendTile(tiles + at * kTileBytes, end - row, state);
    __syncwarp();
    if (fetch < end) FetchTile<kDim>(rows, fetch, end, tiles + at * kTileBytes);
    CommitCopies();
    at = at + 1 == kTilesAhead ? 0 : at + 1;
  }
  WaitForCopies<0>();
}

// Writes the warp's output, maximum and sum of each query to parts [queries, D + 2].
template <int kDim, int kProducts>
__device__ void StoreWarp(const WarpState<kDim, kProducts>& state, int queries, float* parts) {
  const int row = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int p = 0; p < kProducts; ++p) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int q = p * kTileQueries + 2 * t + j;
      const bool writes = t < 2 && q < queries;
      float sum = state.sum[p][j];
      for (int distance = 4; distance < 32; distance *= 2) {
        sum += __shfl_xor_sync(~0u, sum, distance);
      }
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float x = state.out[p][i][2 * half + j];
          x += __shfl_xor_sync(~0u, x, 2);
          if (writes) parts[q * (kDim + 2) + i * 16 + half * 8 + row] = x;
        }
      }
      if (writes && row == 0) {
        parts[q * (kDim + 2) + kDim] = state.max[p][j];
        parts[q * (kDim + 2) + kDim + 1] = sum;
      }
    }
  }
}

// Joins `count` parts of `queries` queries, `stride` floats apart, and hands on
// use(query, dimension, output, maximum, sum). load(pointer) reads the parts; `factors` has room
// for [count, queries].
template <int kDim, typename Load, typename Use>
__device__ void JoinParts(const float* parts, int count, size_t stride, int queries, float* factors,
                          const Load& load, const Use& use) {
  __shared__ float maxima[kMaxGpuGroup], sums[kMaxGpuGroup];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp < queries) {
    const float* part = parts + warp * (kDim + 2) + kDim;
    float most = -INFINITY;
    for (int j = lane; j < count; j += 32) most = fmaxf(most, load(part + j * stride));
    for (int distance = 16; distance > 0; distance /= 2) {
      most = fmaxf(most, __shfl_xor_sync(~0u, most, distance));
    }
    float sum = 0;
    for (int j = lane; j < count; j += 32) {
      // A part without rows has no maximum; all of them may have none.
      const float factor = most == -INFINITY ? 0 : FastExp2(load(part + j * stride) - most);
      factors[j * queries + warp] = factor;
      sum += factor * load(part + j * stride + 1);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(~0u, sum, distance);
    }
    if (lane == 0) maxima[warp] = most, sums[warp] = sum;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < queries * kDim; i += kThreads) {
    const int q = i / kDim, d = i % kDim;
    const float* part = parts + q * (kDim + 2) + d;
    float out = 0;
#pragma unroll 16
    for (int j = 0; j < count; ++j) out += factors[j * queries + q] * load(part + j * stride);
    use(q, d, out, maxima[q], sums[q]);
  }
  __syncthreads();
}
static_assert(kWarps >= kMaxGpuGroup, "a warp for each query");

// With more than four queries their registers suffice for one block.
template <int kProducts>
constexpr int kBlocksOfProcessor = kProducts == 1 ? 2 : 1;

template <int kDim, int kProducts>
__global__ void __launch_bounds__(kThreads, kBlocksOfProcessor<kProducts>)
    SparseDecodeKernel(SparseDecodeParams p, Workspace workspace) {
  extern __shared__ __align__(128) char shared[];
  __shared__ bool last;
  constexpr int kTileBytes = kTileRows * kDim * 4;
  const int list = blockIdx.y, block = blockIdx.x, warp = threadIdx.x / 32;
  const ListPlace place = PlaceOfList(list, p.per_head ? p.group : 1, p.layer.kv_heads);
  const int head = place.head, sequence = place.sequence;
  const int queries = workspace.queries;
  WaitForPrevious();
  AllowNext();
  WarpState<kDim, kProducts> state;
  LoadQueries(p.queries + size_t(list) * queries * kDim, queries, p.scale, &state);
  const Rows rows = RowsOf(p, list, head, sequence);
  auto* of_warps = reinterpret_cast<float*>(shared);  // [warps, queries, D + 2]
  const size_t part = size_t(queries) * (kDim + 2);
  float* factors = of_warps + kWarps * part;
  const int blocks = gridDim.x;
  float* of_blocks = workspace.parts + size_t(list) * workspace.sections * blocks * part;

  for (int section = 0; section < workspace.sections; ++section) {
    const int begin = section == 0 ? 0 : rows.always;
    const int end = section + 1 < workspace.sections ? rows.always : rows.total;
    AttendRows(rows, begin, end, shared + size_t(warp) * kTilesAhead * kTileBytes, &state);
    __syncthreads();
    StoreWarp(state, queries, of_warps + warp * part);
    __syncthreads();
    float* of_block = of_blocks + (section * blocks + block) * part;
    JoinParts<kDim>(
        of_warps, kWarps, part, queries, factors, [](const float* x) { return *x; },
        [&](int q, int d, float out, float most, float sum) {
          float* to = of_block + q * (kDim + 2);
          to[d] = out;
          if (d == 0) to[kDim] = most, to[kDim + 1] = sum;
        });
  }
  if (!FinishesLast(&workspace.blocks_done[list], &last)) return;
  const auto load = [](const float* x) { return __ldcg(x); };
  float* outputs = p.out + size_t(list) * queries * kDim;
  if (p.estimate_tail) {  // the values of the rest, which the same threads read again below
    const size_t of_head = size_t(sequence) * p.layer.kv_heads + head;
    JoinParts<kDim>(
        of_blocks + blocks * part, blocks, part, queries, factors, load,
        [&](int q, int d, float out, float, float sum) {
          const double sum_of_values = p.layer.value_sums[of_head * kDim + d];
          const float mean = float(sum_of_values / max(1, rows.window_begin - rows.sinks));
          outputs[q * kDim + d] = sum > 0 ? mean + p.tail_like_chosen * (out / sum - mean) : mean;
        });
  }
  JoinParts<kDim>(of_blocks, workspace.sections * blocks, part, queries, factors, load,
                  [&](int q, int d, float out, float most, float sum) {
                    const size_t row = size_t(list) * queries + q;
                    out /= sum;
                    if (p.missed_mass != nullptr) {
                      const float lse = kLn2 * (most + log2f(sum));
                      const float missed = 1 / (1 + expf(lse - p.unselected_lse[row]));
                      if (d == 0) p.missed_mass[row] += missed;
                      if (p.estimate_tail && missed > 0) {
                        out += missed * (outputs[q * kDim + d] - out);
                      }
                    }
                    outputs[q * kDim + d] = out;
                  });
}

constexpr int kBlocksOfGpu = 264;      // two for each multiprocessor of an H200
constexpr int kMaxBlocksOfList = 128;  // whose parts are joined

size_t Place(const SparseDecodeParams& p, char* memory, Workspace* workspace) {
  workspace->queries = p.per_head ? 1 : p.group;
  workspace->sections = p.estimate_tail ? 2 : 1;
  workspace->lists = p.layer.batch * p.layer.kv_heads * (p.per_head ? p.group : 1);
  const int64_t all_rows = int64_t{p.layer.max_pages} * kGpuPageTokens;
  const int64_t listed = int64_t{p.window.n_sink} + p.window.local_window + p.max_selected;
  const int64_t most_rows = p.positions == nullptr ? all_rows : std::min(all_rows, listed);
  const int64_t tiles = (most_rows + kTileRows - 1) / kTileRows;
  workspace->blocks = static_cast<int>(std::min<int64_t>(
      std::clamp(kBlocksOfGpu / std::max(1, workspace->lists), 1, kMaxBlocksOfList),
      (tiles + kWarps - 1) / kWarps));
  // As many for every layer: those that attend to all have fewer lists, in the same memory.
  const size_t most_lists = size_t(p.layer.batch) * p.layer.kv_heads * p.group;
  const size_t counters = (most_lists * 4 + 255) / 256 * 256;
  workspace->blocks_done = reinterpret_cast<unsigned*>(memory);
  workspace->parts = reinterpret_cast<float*>(memory + counters);
  return counters + size_t(workspace->lists) * workspace->sections * workspace->blocks *
                        workspace->queries * (p.layer.dim + 2) * sizeof(float);
}

template <int kDim, int kProducts>
Status Launch(const SparseDecodeParams& p, const Workspace& workspace, GpuStream stream) {
  constexpr size_t kBytes = size_t{kWarps} * kTilesAhead * kTileRows * kDim * 4;
  auto* kernel = SparseDecodeKernel<kDim, kProducts>;
  PQCACHE_RETURN_IF_ERROR(AllowSharedMemory(kernel, kBytes));
  return LaunchOverlapping("sparse decode", kernel,
                           {dim3(workspace.blocks, workspace.lists), kThreads, kBytes}, stream, p,
                           workspace);
}

}  // namespace

size_t SparseDecodeWorkspaceBytes(const SparseDecodeParams& params) {
  Workspace workspace;
  return Place(params, nullptr, &workspace);
}

Status SparseDecode(const SparseDecodeParams& params, GpuStream stream) {
  PQCACHE_RETURN_IF_ERROR(
      CheckGpuShapes(params.layer.dim, params.layer.bytes_per_key, params.group));
  PQCACHE_CHECK(
      !params.estimate_tail || (params.positions != nullptr && params.missed_mass != nullptr),
      "an estimate of what a list lacks");
  Workspace workspace;
  Place(params, static_cast<char*>(params.workspace), &workspace);
  return DispatchDim(params.layer.dim, [&](auto dim) {
    if (workspace.queries <= kTileQueries) return Launch<dim(), 1>(params, workspace, stream);
    return Launch<dim(), 2>(params, workspace, stream);
  });
}

}  // namespace pqcache::attention
