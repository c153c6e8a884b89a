#include "pqcache/index/best_codes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pqcache/base/check.h"
#include "pqcache/base/top_k.h"
#include "pqcache/base/vector_math.h"

namespace pqcache {
namespace {

// Sampled blocks are spread over all rows: one in 16, but not fewer than these, nor more.
constexpr int64_t kMinSampledBlocks = 24, kMaxSampledBlocks = 32;
// Rows that are looked for, as a multiple of those that are wanted, and standard deviations of the
// sample on top: so that a second scan is rare.
constexpr double kMargin = 1.25, kDeviations = 2.5;

constexpr float kNothing = -std::numeric_limits<float>::infinity();

static_assert(PqIndex::kBlockTokens == kScanBlockTokens, "scans are made for these blocks");

// The sum with this score or the next below; 0 for a score that is no number.
uint16_t SumOf(float score, float base, float step) {
  const float sum = std::floor((score - base) / step);
  return sum > 0 ? static_cast<uint16_t>(std::min(sum, 65535.0f)) : 0;
}

}  // namespace

void BestCodes::Select(const PqIndex& index, const BestCodesRequest& r,
                       std::vector<std::vector<int64_t>>* lists) {
  PQCACHE_CHECK(r.end - r.begin <= std::numeric_limits<uint32_t>::max(), "rows of 32 bits");
  const int64_t rows = r.end - r.begin;
  lists->resize(r.together ? 1 : static_cast<size_t>(r.g));
  queries_.resize(static_cast<size_t>(r.g));
  unselected_.resize(static_cast<size_t>(r.g));
  BuildTables(index, r);
  TakeSample(index, r);
  const auto sampled = static_cast<int64_t>(queries_[0].sample.size());
  const double wanted = kMargin * static_cast<double>(r.k) * static_cast<double>(sampled) /
                        static_cast<double>(std::max<int64_t>(rows, 1));
  int64_t rank = static_cast<int64_t>(wanted + kDeviations * std::sqrt(wanted)) + 4;
  // A rank beyond the sample finds every row, so this ends.
  for (bool complete = false; !complete; rank *= 2) {
    SetThresholds(r, rank);
    Scan(index, r);
    for (Query& query : queries_) Weigh(rows, &query);
    complete = true;
    if (r.together) {
      complete = SelectTogether(r, &(*lists)[0]);
    } else {
      for (size_t g = 0; g < queries_.size(); ++g) {
        complete = complete && SelectEach(r, &queries_[g], &(*lists)[g]);
      }
    }
  }
  WeighUnselected(r, *lists);
}

void BestCodes::BuildTables(const PqIndex& index, const BestCodesRequest& r) {
  const HeadCodebook& codebook = index.codebook();
  const PqShape& shape = codebook.shape();
  const size_t groups = (static_cast<size_t>(r.g) + kScanQueries - 1) / kScanQueries;
  tables_.resize(groups);
  floats_.resize(static_cast<size_t>(kScanQueries * shape.subspaces * shape.centroids()));
  for (size_t i = 0; i < groups; ++i) {
    const int first = static_cast<int>(i) * kScanQueries;
    const int g = std::min(kScanQueries, r.g - first);
    codebook.BuildTables(g, r.queries + int64_t{first} * shape.dim, r.scale, floats_.data());
    MakeTables(shape, g, floats_.data(), &tables_[i]);
    for (int q = 0; q < g; ++q) {
      queries_[static_cast<size_t>(first + q)].base = tables_[i].base[q];
      queries_[static_cast<size_t>(first + q)].step = tables_[i].step[q];
    }
  }
}

// Whole blocks only: those at the ends may hold rows outside of the range.
void BestCodes::TakeSample(const PqIndex& index, const BestCodesRequest& r) {
  for (Query& query : queries_) query.sample.clear();
  const int64_t first = (r.begin + kScanBlockTokens - 1) / kScanBlockTokens;
  const int64_t blocks = r.end / kScanBlockTokens - first;
  if (blocks < kMinSampledBlocks) return;
  const int64_t sampled = std::clamp(blocks / 16, kMinSampledBlocks, kMaxSampledBlocks);
  uint16_t sums[kScanQueries * kScanTokens];
  for (int64_t i = 0; i < sampled; ++i) {
    const int64_t block = first + i * blocks / sampled;
    for (size_t g = 0; g < queries_.size(); ++g) {
      const size_t q = g % kScanQueries;
      if (q == 0) ScanBlocks(tables_[g / kScanQueries], index.blocks(), block, 1, sums);
      const uint16_t* of_query = sums + q * kScanTokens;
      queries_[g].sample.insert(queries_[g].sample.end(), of_query, of_query + kScanBlockTokens);
    }
  }
}

void BestCodes::SetThresholds(const BestCodesRequest& r, int64_t rank) {
  const auto sampled = static_cast<int64_t>(queries_[0].sample.size());
  if (rank > sampled) {
    for (Query& query : queries_) query.threshold = 0;
    return;
  }
  const auto kth = [&](std::vector<float>* values) {
    std::nth_element(values->begin(), values->begin() + (rank - 1), values->end(),
                     std::greater<float>());
    return (*values)[static_cast<size_t>(rank - 1)];
  };
  ranks_.assign(static_cast<size_t>(sampled), kNothing);
  for (Query& query : queries_) {
    floats_.resize(static_cast<size_t>(sampled));
    for (size_t i = 0; i < floats_.size(); ++i) floats_[i] = query.Score(query.sample[i]);
    if (!r.together) {
      query.threshold = SumOf(kth(&floats_), query.base, query.step);
      continue;
    }
    scratch_ = floats_;
    const float high = MaxOf(scratch_.data(), sampled);
    const float sum = ExpInPlace(scratch_.data(), sampled, high);
    query.lse =
        high + std::log(sum * static_cast<float>(r.end - r.begin) / static_cast<float>(sampled));
    for (size_t i = 0; i < floats_.size(); ++i) {
      ranks_[i] = std::max(ranks_[i], floats_[i] - query.lse);
    }
  }
  if (!r.together) return;
  const float limit = kth(&ranks_);
  for (Query& query : queries_) {
    query.threshold = SumOf(limit + query.lse, query.base, query.step);
  }
}

void BestCodes::Scan(const PqIndex& index, const BestCodesRequest& r) {
  for (Query& query : queries_) query.found.clear();
  if (r.begin == r.end) return;
  const int64_t end_block = (r.end + kScanBlockTokens - 1) / kScanBlockTokens;
  uint16_t sums[kScanQueries * kScanTokens];
  for (size_t group = 0; group < tables_.size(); ++group) {
    const size_t first_query = group * kScanQueries;
    const size_t end_query = std::min(queries_.size(), first_query + kScanQueries);
    for (int64_t block = r.begin / kScanBlockTokens; block < end_block; block += kScanBlocks) {
      const int count = static_cast<int>(std::min<int64_t>(kScanBlocks, end_block - block));
      ScanBlocks(tables_[group], index.blocks(), block, count, sums);
      for (size_t g = first_query; g < end_query; ++g) {
        Query& query = queries_[g];
        const uint16_t* of_query = sums + (g - first_query) * kScanTokens;
        for (int b = 0; b < count; ++b) {
          const int64_t row = (block + b) * kScanBlockTokens;
          uint64_t bits = AtLeast(of_query + b * kScanBlockTokens, query.threshold);
          if (row < r.begin) bits &= ~uint64_t{0} << (r.begin - row);
          if (row + kScanBlockTokens > r.end) {
            bits &= ~uint64_t{0} >> (row + kScanBlockTokens - r.end);
          }
          for (; bits != 0; bits &= bits - 1) {
            const int i = __builtin_ctzll(bits);
            query.found.push_back(
                {static_cast<uint32_t>(row + i - r.begin), of_query[b * kScanBlockTokens + i]});
          }
        }
      }
    }
  }
}

void BestCodes::Weigh(int64_t rows, Query* query) {
  const auto found = static_cast<int64_t>(query->found.size());
  query->weights.resize(query->found.size());
  for (size_t i = 0; i < query->found.size(); ++i) {
    query->weights[i] = query->Score(query->found[i].sum);
  }
  query->highest = MaxOf(query->weights.data(), found);
  floats_.clear();
  for (const uint16_t sum : query->sample) {
    if (sum < query->threshold) floats_.push_back(query->Score(sum));
  }
  const auto below = static_cast<int64_t>(floats_.size());
  query->highest = std::max(query->highest, MaxOf(floats_.data(), below));
  const double all = ExpInPlace(query->weights.data(), found, query->highest);
  const double rest = ExpInPlace(floats_.data(), below, query->highest);
  const auto left = static_cast<double>(rows - found);
  if (left == 0) {
    query->rest = 0;
  } else if (below > 0) {
    query->rest = rest * left / static_cast<double>(below);
  } else {  // no more than if all had the best score that is left
    const float best = query->Score(static_cast<uint16_t>(query->threshold - 1));
    query->rest = left * std::exp(double{best} - query->highest);
  }
  query->lse = query->highest + static_cast<float>(std::log(all + query->rest));
}

bool BestCodes::SelectEach(const BestCodesRequest& r, Query* query, std::vector<int64_t>* list) {
  const auto found = static_cast<int64_t>(query->found.size());
  if (found < std::min(r.k, r.end - r.begin)) return false;
  ranks_.resize(query->found.size());
  for (size_t i = 0; i < ranks_.size(); ++i) ranks_[i] = static_cast<float>(query->found[i].sum);
  SelectTopK(ranks_.data(), found, r.k, &scratch_, &best_);
  list->clear();
  for (const int64_t i : best_) list->push_back(query->found[static_cast<size_t>(i)].row);
  return true;
}

// A row that no query found ranks below every query's threshold.
bool BestCodes::SelectTogether(const BestCodesRequest& r, std::vector<int64_t>* list) {
  rows_.clear();
  ranks_.clear();
  std::vector<size_t> next(queries_.size(), 0);
  while (true) {
    uint32_t row = std::numeric_limits<uint32_t>::max();
    for (size_t g = 0; g < queries_.size(); ++g) {
      const auto& found = queries_[g].found;
      if (next[g] < found.size()) row = std::min(row, found[next[g]].row);
    }
    if (row == std::numeric_limits<uint32_t>::max()) break;
    float rank = kNothing;
    for (size_t g = 0; g < queries_.size(); ++g) {
      const auto& found = queries_[g].found;
      if (next[g] == found.size() || found[next[g]].row != row) continue;
      rank = std::max(rank, queries_[g].Score(found[next[g]++].sum) - queries_[g].lse);
    }
    rows_.push_back(row);
    ranks_.push_back(rank);
  }
  const auto found = static_cast<int64_t>(rows_.size());
  if (found < std::min(r.k, r.end - r.begin)) return false;
  SelectTopK(ranks_.data(), found, r.k, &scratch_, &best_);
  list->clear();
  float lowest = -kNothing;
  for (const int64_t i : best_) {
    list->push_back(rows_[static_cast<size_t>(i)]);
    lowest = std::min(lowest, ranks_[static_cast<size_t>(i)]);
  }
  for (const Query& query : queries_) {
    // The best that a row not found can have.
    if (query.threshold == 0) continue;
    if (lowest <= query.Score(static_cast<uint16_t>(query.threshold - 1)) - query.lse) return false;
  }
  return true;
}

void BestCodes::WeighUnselected(const BestCodesRequest& r,
                                const std::vector<std::vector<int64_t>>& lists) {
  for (size_t g = 0; g < queries_.size(); ++g) {
    const Query& query = queries_[g];
    const std::vector<int64_t>& list = lists[r.together ? 0 : g];
    double weight = query.rest;
    size_t at = 0;
    for (size_t i = 0; i < query.found.size(); ++i) {
      while (at < list.size() && list[at] < query.found[i].row) ++at;
      const bool selected = at < list.size() && list[at] == query.found[i].row;
      if (!selected) weight += query.weights[i];
    }
    unselected_[g] = weight > 0 ? query.highest + static_cast<float>(std::log(weight)) : kNothing;
  }
}

}  // namespace pqcache
