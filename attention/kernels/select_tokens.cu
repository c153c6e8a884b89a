#include <algorithm>
#include <string>
#include <utility>

#include "attention/kernels/gpu_shapes.h"
#include "attention/kernels/launch.cuh"
#include "attention/kernels/position_mean.cuh"
#include "attention/kernels/rank_found.cuh"
#include "attention/kernels/search_state.cuh"
#include "attention/kernels/select_internal.h"
#include "attention/kernels/select_tokens.h"

namespace pqcache::attention {
namespace {

// Blocks of a scan wait for each other, so there are no more than run at the same time: two for
// each multiprocessor if its shared memory suffices.
size_t ScanBlocksOfGpu(size_t table_bytes, size_t words) {
  static const auto limits = [] {
    int device = 0, processors = 1, shared = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
    return std::pair<size_t, size_t>(processors, shared);
  }();
  constexpr size_t kReserved = 1024;  // by the driver, of each block
  const size_t placed = kRankThreads * words * sizeof(PageSteps<1>);
  const size_t block = table_bytes + kRankSharedBytes + sizeof(RankShared) + placed + kReserved;
  return limits.first * (2 * block <= limits.second ? 2 : 1);
}

size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Places the arrays behind `workspace`; gives the bytes that they take.
size_t Place(const SelectTokensParams& p, char* workspace, SearchArrays* arrays) {
  const int queries = p.per_head ? 1 : p.group;
  const size_t lists = size_t(p.layer.batch) * p.layer.kv_heads * (p.per_head ? p.group : 1);
  const size_t words = (queries + kWordQueries - 1) / kWordQueries;
  const size_t capacity = size_t(p.layer.max_pages) * kGpuPageTokens + 32;
  const size_t entries = size_t(p.codebooks.subspaces) << p.codebooks.bits;
  const size_t blocks = std::clamp<size_t>(
      ScanBlocksOfGpu(4 * entries * words, words) / std::max<size_t>(1, lists), 1, kMaxBlocks);
  size_t bytes = 0;
  const auto place = [&](size_t n) {
    char* at = workspace + bytes;
    bytes += Aligned(n);
    return at;
  };
  arrays->searches = reinterpret_cast<Search*>(place(lists * sizeof(Search)));
  arrays->tables = reinterpret_cast<uint32_t*>(place(lists * entries * words * 4));
  const size_t of_blocks = lists * kMaxBlocks;
  arrays->found_counts = reinterpret_cast<int*>(place(of_blocks * 4));
  const bool placed = p.codebooks.position_means != nullptr;
  const size_t page_scores = placed ? lists * p.layer.max_pages * queries : 0;
  arrays->page_scores = reinterpret_cast<float*>(place(page_scores * 4));
  arrays->exponentials = reinterpret_cast<float*>(place(of_blocks * kMaxQueries * 4));
  arrays->shares = reinterpret_cast<float*>(place(of_blocks * kMaxQueries * 4));
  const size_t found_bytes = words == 1 ? sizeof(Found<1>) : sizeof(Found<2>);
  arrays->found = place(lists * capacity * found_bytes);
  arrays->keys = reinterpret_cast<uint32_t*>(place(lists * capacity * 4));
  arrays->lists = int(lists);
  arrays->words = int(words);
  arrays->capacity = int(capacity);
  arrays->blocks = int(blocks);
  // Not so many that those of the lists would have to wait.
  constexpr int kPageBlocks = 96;
  const int most = std::max(1, kPageBlocks / p.layer.batch);
  const int wanted = (p.layer.max_pages + kPagesAtOnce - 1) / kPagesAtOnce;
  arrays->page_blocks = placed ? std::clamp(wanted, 1, most) : 0;
  return bytes;
}

}  // namespace

size_t SelectWorkspaceBytes(const SelectTokensParams& params) {
  SearchArrays arrays;
  return Place(params, nullptr, &arrays);
}

Status SelectTokens(const SelectTokensParams& params, GpuStream stream,
                    const AppendTokensParams* append) {
  PQCACHE_CHECK(append == nullptr || append->n == 1, "one token of each sequence");
  const int bytes = params.codebooks.subspaces * params.codebooks.bits / 8;
  PQCACHE_CHECK(bytes == params.layer.bytes_per_key, "pages hold the codes of these codebooks");
  PQCACHE_RETURN_IF_ERROR(CheckGpuShapes(params.layer.dim, bytes, params.group));
  SearchArrays arrays;
  Place(params, static_cast<char*>(params.workspace), &arrays);
  PQCACHE_RETURN_IF_ERROR(LaunchScoreTables(params, arrays, append, stream));
  return LaunchScanCodes(params, arrays, stream);
}

}  // namespace pqcache::attention
