#include "pqcache/index/best_codes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pqcache/base/check.h"
#include "pqcache/base/top_k.h"
#include "pqcache/base/vector_clones.h"
#include "pqcache/base/vector_math.h"

namespace pqcache {
namespace {

// Sampled blocks are spread over all rows: one in 32, but not fewer than these, nor more.
constexpr int64_t kMinSampledBlocks = 24, kMaxSampledBlocks = 64;
static_assert(kMinSampledBlocks % kScanBlocks == 0 && kMaxSampledBlocks % kScanBlocks == 0);
// Of the sample, on top of the rows that are looked for: so that a second scan is rare.
constexpr double kDeviations = 3;

constexpr float kNothing = -std::numeric_limits<float>::infinity();

static_assert(PqIndex::kBlockTokens == kScanBlockTokens, "scans are made for these blocks");
static_assert(kPositionBlock == kScanBlockTokens, "a block has one mean");

// The number of steps from base up to score, rounded down; 0 for a score that is no number.
int StepsTo(float score, float base, float step) {
  const float steps = std::floor((score - base) / step);
  return steps > 0 ? static_cast<int>(std::min(steps, 65535.0f)) : 0;
}

PQCACHE_VECTOR_CLONES void Scores(const uint16_t* sums, int64_t n, float base, float step,
                                  float* scores) {
  for (int64_t i = 0; i < n; ++i) scores[i] = base + step * static_cast<float>(sums[i]);
}

// worth[i] = max(worth[i], sums[i] + offset)
PQCACHE_VECTOR_CLONES void RaiseWorth(const uint16_t* sums, int64_t n, uint16_t offset,
                                      uint16_t* worth) {
  for (int64_t i = 0; i < n; ++i) {
    const auto with = static_cast<uint16_t>(sums[i] + offset);
    worth[i] = with > worth[i] ? with : worth[i];
  }
}

// ranks[i] = max(ranks[i], score i - lse)
PQCACHE_VECTOR_CLONES void RaiseRanks(const uint16_t* sums, int64_t n, float base, float step,
                                      float lse, float* ranks) {
  for (int64_t i = 0; i < n; ++i) {
    const float rank = base + step * static_cast<float>(sums[i]) - lse;
    ranks[i] = rank > ranks[i] ? rank : ranks[i];
  }
}

// Places [0, n) of which keep(i) holds. Does not branch on it, which could not be predicted.
template <typename Keep>
void KeepPlaces(size_t n, const Keep& keep, std::vector<size_t>* places) {
  places->resize(n + 1);  // one more, for what is not kept in the end
  size_t kept = 0;
  for (size_t i = 0; i < n; ++i) {
    (*places)[kept] = i;
    kept += keep(i) ? 1 : 0;
  }
  places->resize(kept);
}

}  // namespace

void BestCodes::Select(const PqIndex& index, const BestCodesRequest& r,
                       std::vector<std::vector<int64_t>>* lists) {
  PQCACHE_CHECK(r.end - r.begin <= std::numeric_limits<uint32_t>::max(), "rows of 32 bits");
  const int64_t rows = r.end - r.begin;
  lists->resize(r.together ? 1 : static_cast<size_t>(r.g));
  queries_.resize(static_cast<size_t>(r.g));
  BuildTables(index, r);
  ScorePositions(index, r);
  TakeSample(index, r);
  const auto sampled = static_cast<int64_t>(queries_[0].sample.size());
  const double wanted = static_cast<double>(r.k) * static_cast<double>(sampled) /
                        static_cast<double>(std::max<int64_t>(rows, 1));
  int64_t rank = static_cast<int64_t>(wanted + kDeviations * std::sqrt(wanted)) + 4;
  // A rank beyond the sample finds every row, so this ends.
  for (bool complete = false; !complete; rank *= 2) {
    SetThresholds(r, rank);
    Scan(index, r);
    for (const Search& search : searches_) WeighRest(rows, search);
    complete = true;
    if (r.together) {
      complete = SelectTogether(r, &(*lists)[0]);
    } else {
      for (size_t g = 0; g < queries_.size(); ++g) {
        complete = complete && SelectEach(r, searches_[g], &(*lists)[g]);
      }
    }
  }
  selected_.resize(static_cast<size_t>(rows), 0);
  for (size_t i = 0; i < searches_.size(); ++i) {
    WeighUnselected(searches_[i], (*lists)[r.together ? 0 : i]);
  }
}

void BestCodes::BuildTables(const PqIndex& index, const BestCodesRequest& r) {
  const HeadCodebook& codebook = index.codebook();
  const PqShape& shape = codebook.shape();
  const size_t groups = (static_cast<size_t>(r.g) + kScanQueries - 1) / kScanQueries;
  tables_.resize(groups);
  searches_.resize(r.together ? groups : static_cast<size_t>(r.g));
  floats_.resize(static_cast<size_t>(kScanQueries * shape.subspaces * shape.centroids()));
  for (size_t i = 0; i < groups; ++i) {
    const int first = static_cast<int>(i) * kScanQueries;
    const int g = std::min(kScanQueries, r.g - first);
    const float* queries = r.queries + int64_t{first} * shape.dim;
    codebook.BuildTables(g, queries, r.scale, floats_.data());
    float bounds[kScanQueries] = {};
    for (int q = 0; q < g && !codebook.position_mean().empty(); ++q) {
      bounds[q] = r.scale * codebook.position_mean().Bound(queries + int64_t{q} * shape.dim);
    }
    MakeTables(shape, g, floats_.data(), r.together ? TableSteps::kOne : TableSteps::kEach,
               {bounds, static_cast<size_t>(g)}, &tables_[i]);
    for (int q = 0; q < g; ++q) {
      Query& query = queries_[static_cast<size_t>(first + q)];
      query.base = tables_[i].base[q];
      query.step = tables_[i].step[q];
    }
  }
  for (size_t i = 0; i < searches_.size(); ++i) {
    searches_[i].first = static_cast<int>(r.together ? i * kScanQueries : i);
    searches_[i].threshold.queries = r.together ? tables_[i].queries : 1;
  }
}

// What the position of a block adds to its sums.
void BestCodes::ScorePositions(const PqIndex& index, const BestCodesRequest& r) {
  const PositionMean& mean = index.codebook().position_mean();
  position_steps_.resize(tables_.size());
  const int64_t first = r.begin / kScanBlockTokens;
  const int64_t end = (r.end + kScanBlockTokens - 1) / kScanBlockTokens;
  for (size_t i = 0; i < tables_.size(); ++i) {
    position_steps_[i].clear();
    if (mean.empty() || end <= first) continue;
    const QuantisedTables& tables = tables_[i];
    const int64_t query = static_cast<int64_t>(i) * kScanQueries;
    floats_.resize(static_cast<size_t>((end - first) * tables.queries));
    mean.Score(tables.queries, r.queries + query * index.codebook().shape().dim, first, end - first,
               floats_.data());
    position_steps_[i].resize(static_cast<size_t>(end * kScanQueries));
    const float* score = floats_.data();
    for (int64_t b = first; b < end; ++b) {
      for (int q = 0; q < tables.queries; ++q) {
        position_steps_[i][static_cast<size_t>(b * kScanQueries + q)] =
            tables.StepsOf(q, r.scale * *score++);
      }
    }
  }
}

ScanTask BestCodes::TaskOf(const PqIndex& index, size_t tables) const {
  return {
      .tables = &tables_[tables],
      .codes = index.blocks(),
      .position_steps = position_steps_[tables].empty() ? nullptr : position_steps_[tables].data()};
}

// Whole blocks only: those at the ends may hold rows outside of the range. The blocks of a scan lie
// in the middle of those that they stand for: newer rows are attended to more, and with the older
// ones of each part what is left would seem to weigh less than it does.
void BestCodes::TakeSample(const PqIndex& index, const BestCodesRequest& r) {
  const int64_t first = (r.begin + kScanBlockTokens - 1) / kScanBlockTokens;
  const int64_t blocks = r.end / kScanBlockTokens - first;
  int64_t sampled = 0;
  if (blocks >= kMinSampledBlocks) {
    sampled =
        std::clamp(blocks / 32, kMinSampledBlocks, kMaxSampledBlocks) / kScanBlocks * kScanBlocks;
  }
  for (Query& query : queries_)
    query.sample.resize(static_cast<size_t>(sampled * kScanBlockTokens));
  uint16_t sums[kScanQueries * kScanTokens];
  for (int64_t i = 0; i < sampled; i += kScanBlocks) {
    for (size_t g = 0; g < queries_.size(); ++g) {
      const size_t q = g % kScanQueries;
      if (q == 0) {
        ScanTask task = TaskOf(index, g / kScanQueries);
        task.stride = blocks / sampled;
        const int64_t twice_middle = (2 * i + kScanBlocks) * blocks / sampled;
        task.block = first + (twice_middle - (kScanBlocks - 1) * task.stride) / 2;
        task.count = kScanBlocks;
        ScanBlocks(task, sums);
      }
      std::copy_n(sums + q * kScanTokens, kScanTokens,
                  queries_[g].sample.data() + i * kScanBlockTokens);
    }
  }
}

void BestCodes::SetThresholds(const BestCodesRequest& r, int64_t rank) {
  const auto sampled = static_cast<int64_t>(queries_[0].sample.size());
  for (Search& search : searches_) {
    search.threshold.least = 0;
    std::fill_n(search.threshold.offsets, kScanQueries, uint16_t{0});
  }
  if (rank > sampled) return;
  floats_.resize(static_cast<size_t>(sampled));
  if (!r.together) {
    for (Search& search : searches_) {
      const Query& query = queries_[static_cast<size_t>(search.first)];
      Scores(query.sample.data(), sampled, 0, 1, floats_.data());
      search.threshold.least =
          static_cast<uint16_t>(KthLargest(floats_.data(), sampled, rank, &scratch_));
    }
    return;
  }
  ranks_.assign(static_cast<size_t>(sampled), kNothing);
  for (Query& query : queries_) {
    Scores(query.sample.data(), sampled, query.base, query.step, floats_.data());
    const double rows = static_cast<double>(r.end - r.begin);
    query.lse = static_cast<float>(LogSumExp(floats_.data(), std::ssize(floats_)) +
                                   std::log(rows / static_cast<double>(sampled)));
    RaiseRanks(query.sample.data(), sampled, query.base, query.step, query.lse, ranks_.data());
  }
  const float limit = KthLargest(ranks_.data(), sampled, rank, &scratch_);
  for (Search& search : searches_) SetShared(limit, &search);
}

// Rows of rank `limit` or more are found, but for rounding: offsets are rounded by half a step at
// most. SelectTogether makes sure.
void BestCodes::SetShared(float limit, Search* search) const {
  ScanThreshold& t = search->threshold;
  const Query* queries = &queries_[static_cast<size_t>(search->first)];
  const float step = queries[0].step;  // that of all
  float origin = queries[0].base - queries[0].lse;
  for (int q = 1; q < t.queries; ++q) origin = std::min(origin, queries[q].base - queries[q].lse);
  for (int q = 0; q < t.queries; ++q) {
    const int steps = StepsTo(queries[q].base - queries[q].lse + 0.5f * step, origin, step);
    t.offsets[q] = static_cast<uint16_t>(std::min(steps, 32767));
  }
  t.least = static_cast<uint16_t>(StepsTo(limit - 0.5f * step, origin, step));
}

void BestCodes::Scan(const PqIndex& index, const BestCodesRequest& r) {
  for (Search& search : searches_) search.size = 0;
  if (r.begin == r.end) return;
  const int64_t end_block = (r.end + kScanBlockTokens - 1) / kScanBlockTokens;
  const size_t searches_of_scan = r.together ? 1 : kScanQueries;
  uint16_t sums[kScanQueries * kScanTokens] = {};
  for (size_t i = 0; i < tables_.size(); ++i) {
    const size_t first = i * searches_of_scan;
    const size_t end = std::min(searches_.size(), first + searches_of_scan);
    ScanTask task = TaskOf(index, i);
    for (task.block = r.begin / kScanBlockTokens; task.block < end_block;
         task.block += kScanBlocks) {
      task.count = static_cast<int>(std::min<int64_t>(kScanBlocks, end_block - task.block));
      ScanBlocks(task, sums);
      for (size_t s = first; s < end; ++s) {
        Collect(r, task, sums + (s - first) * kScanTokens, &searches_[s]);
      }
    }
  }
}

void BestCodes::Collect(const BestCodesRequest& r, const ScanTask& task, const uint16_t* sums,
                        Search* search) {
  uint64_t bits[kScanBlocks];
  AtLeast(search->threshold, sums, bits);
  Query* queries = &queries_[static_cast<size_t>(search->first)];
  const int count = search->threshold.queries;
  const size_t room = search->size + kScanTokens;
  if (search->rows.size() < room) search->rows.resize(2 * room);
  uint32_t* rows = search->rows.data();
  uint16_t* found[kScanQueries];
  for (int q = 0; q < count; ++q) {
    if (queries[q].found.size() < room) queries[q].found.resize(2 * room);
    found[q] = queries[q].found.data();
  }
  size_t n = search->size;
  for (int b = 0; b < task.count; ++b, sums += kScanBlockTokens) {
    const int64_t row = (task.block + b) * kScanBlockTokens;
    uint64_t left = bits[b];
    if (row < r.begin) left &= ~uint64_t{0} << (r.begin - row);
    if (row + kScanBlockTokens > r.end) left &= ~uint64_t{0} >> (row + kScanBlockTokens - r.end);
    for (; left != 0; left &= left - 1, ++n) {
      const int i = __builtin_ctzll(left);
      rows[n] = static_cast<uint32_t>(row + i - r.begin);
      for (int q = 0; q < count; ++q) found[q][n] = sums[q * kScanTokens + i];
    }
  }
  search->size = n;
}

// Of the rows that are not found, by the sampled ones among them.
void BestCodes::WeighRest(int64_t rows, const Search& search) {
  const double rest = static_cast<double>(rows - static_cast<int64_t>(search.size));
  const ScanThreshold& t = search.threshold;
  Query* queries = &queries_[static_cast<size_t>(search.first)];
  worth_.assign(queries[0].sample.size(), 0);
  for (int q = 0; q < t.queries; ++q) {
    RaiseWorth(queries[q].sample.data(), std::ssize(worth_), t.offsets[q], worth_.data());
  }
  KeepPlaces(
      worth_.size(), [&](size_t i) { return worth_[i] < t.least; }, &left_);
  const size_t sampled = left_.size();
  for (int q = 0; q < t.queries; ++q) {
    Query& query = queries[q];
    if (rest == 0) {
      query.rest_lse = kNothing;
    } else if (sampled > 0) {
      TakeScores(query, query.sample);
      query.rest_lse = LogSumExp(floats_.data(), std::ssize(floats_)) +
                       std::log(rest / static_cast<double>(sampled));
    } else {  // no more than if all had the best score that is left
      query.rest_lse = query.Score(std::max(0, t.least - 1 - t.offsets[q])) + std::log(rest);
    }
  }
}

// Those at left_.
void BestCodes::TakeScores(const Query& query, const std::vector<uint16_t>& sums) {
  floats_.resize(left_.size());
  for (size_t i = 0; i < left_.size(); ++i) floats_[i] = query.Score(sums[left_[i]]);
}

bool BestCodes::SelectEach(const BestCodesRequest& r, const Search& search,
                           std::vector<int64_t>* list) {
  const auto found = static_cast<int64_t>(search.size);
  if (found < std::min(r.k, r.end - r.begin)) return false;
  ranks_.resize(search.size);
  Scores(queries_[static_cast<size_t>(search.first)].found.data(), found, 0, 1, ranks_.data());
  SelectTopK(ranks_.data(), found, r.k, &scratch_, &best_);
  list->clear();
  for (const int64_t i : best_) list->push_back(search.rows[static_cast<size_t>(i)]);
  return true;
}

void BestCodes::Rank(const Search& search, std::vector<float>* ranks) {
  const auto found = static_cast<int64_t>(search.size);
  ranks->assign(search.size, kNothing);
  for (int q = 0; q < search.threshold.queries; ++q) {
    Query& query = queries_[static_cast<size_t>(search.first + q)];
    floats_.resize(search.size);
    Scores(query.found.data(), found, query.base, query.step, floats_.data());
    query.lse = static_cast<float>(
        LogAddExp(LogSumExp(floats_.data(), std::ssize(floats_)), query.rest_lse));
    RaiseRanks(query.found.data(), found, query.base, query.step, query.lse, ranks->data());
  }
}

// Ranks of rows in ascending order, together with those of `more` rows.
void BestCodes::Merge(const Search& more, const std::vector<float>& ranks) {
  merged_rows_.clear();
  merged_ranks_.clear();
  for (size_t a = 0, b = 0; a < rows_.size() || b < more.size;) {
    const bool first = b == more.size || (a < rows_.size() && rows_[a] <= more.rows[b]);
    const bool second = a == rows_.size() || (b < more.size && more.rows[b] <= rows_[a]);
    merged_rows_.push_back(first ? rows_[a] : more.rows[b]);
    merged_ranks_.push_back(std::max(first ? ranks_[a] : kNothing, second ? ranks[b] : kNothing));
    a += first ? 1 : 0;
    b += second ? 1 : 0;
  }
  rows_.swap(merged_rows_);
  ranks_.swap(merged_ranks_);
}

// A row that no search found ranks below what every one of them looked for.
bool BestCodes::SelectTogether(const BestCodesRequest& r, std::vector<int64_t>* list) {
  rows_.assign(searches_[0].rows.begin(), searches_[0].rows.begin() + searches_[0].size);
  Rank(searches_[0], &ranks_);
  for (size_t i = 1; i < searches_.size(); ++i) {
    Rank(searches_[i], &more_ranks_);
    Merge(searches_[i], more_ranks_);
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
  for (const Search& search : searches_) {
    for (int q = 0; q < search.threshold.queries; ++q) {
      // The best that a row not found can have.
      const Query& query = queries_[static_cast<size_t>(search.first + q)];
      const int sum = search.threshold.least - 1 - search.threshold.offsets[q];
      if (sum >= 0 && lowest <= query.Score(sum) - query.lse) return false;
    }
  }
  return true;
}

// Of the rows that are found and not in the list.
void BestCodes::WeighUnselected(const Search& search, const std::vector<int64_t>& list) {
  for (const int64_t row : list) selected_[static_cast<size_t>(row)] = 1;
  KeepPlaces(
      search.size, [&](size_t i) { return selected_[search.rows[i]] == 0; }, &left_);
  for (const int64_t row : list) selected_[static_cast<size_t>(row)] = 0;
  for (int q = 0; q < search.threshold.queries; ++q) {
    Query& query = queries_[static_cast<size_t>(search.first + q)];
    TakeScores(query, query.found);
    query.unselected_lse = static_cast<float>(
        LogAddExp(LogSumExp(floats_.data(), std::ssize(floats_)), query.rest_lse));
  }
}

}  // namespace pqcache
