#pragma once

// The best rows of a PqIndex for the queries of one KV head, without a score for every row: sampled
// blocks tell above which score a row can be among them, and one scan collects those rows.
//
// Scores are those of quantised tables (quantised_tables.h), so the result is the same for every
// instruction set. Queries that select together rank a row by the largest share of any query's
// attention that it has: score minus the log-sum-exp of the query's scores, which is summed over
// the rows collected and estimated from the sample for the others. Of equal ranks the lower row
// wins.

#include <cstdint>
#include <vector>

#include "pqcache/index/pq_index.h"
#include "pqcache/index/quantised_scan.h"

namespace pqcache {

struct BestCodesRequest {
  int g = 0;                       // G queries
  const float* queries = nullptr;  // [G, D]
  float scale = 0;
  int64_t begin = 0, end = 0;  // rows, fewer than 2^32
  int64_t k = 0;               // rows to select, >= 0
  bool together = false;       // one selection for all queries, else one for each
};

class BestCodes {
 public:
  // The lists: ascending positions relative to begin, one, or one for each query. Memory is kept
  // for the next call. One thread at a time.
  void Select(const PqIndex& index, const BestCodesRequest& request,
              std::vector<std::vector<int64_t>>* lists);

  // Of the last call: log-sum-exp of query g's scores over the rows that its list lacks, partly
  // estimated; -infinity if there are none. Of more than kScanQueries that select together, rows
  // that only others found count as lacking.
  float unselected_lse(int g) const { return queries_[static_cast<size_t>(g)].unselected_lse; }

 private:
  struct Query {
    float base = 0, step = 0;      // score of a sum
    std::vector<uint16_t> sample;  // sums of the sampled rows
    std::vector<uint16_t> found;   // sums of the rows that its search found
    double rest_lse = 0;           // of the rows that it did not find, estimated
    float lse = 0;                 // of all rows
    float unselected_lse = 0;
    float Score(int sum) const { return base + step * static_cast<float>(sum); }
  };
  // For rows that one query wants, or any of those of a scan.
  struct Search {
    int first = 0;  // its first query
    ScanThreshold threshold;
    std::vector<uint32_t> rows;  // found, ascending, relative to begin
    size_t size = 0;             // of them; the vectors are longer
  };

  void BuildTables(const PqIndex& index, const BestCodesRequest& r);
  void ScorePositions(const PqIndex& index, const BestCodesRequest& r);
  ScanTask TaskOf(const PqIndex& index, size_t tables) const;
  void TakeSample(const PqIndex& index, const BestCodesRequest& r);
  void SetThresholds(const BestCodesRequest& r, int64_t rank);
  void SetShared(float limit, Search* search) const;
  void Scan(const PqIndex& index, const BestCodesRequest& r);
  void Collect(const BestCodesRequest& r, const ScanTask& task, const uint16_t* sums,
               Search* search);
  void WeighRest(int64_t rows, const Search& search);
  void TakeScores(const Query& query, const std::vector<uint16_t>& sums);
  void Rank(const Search& search, std::vector<float>* ranks);
  void Merge(const Search& more, const std::vector<float>& ranks);
  bool SelectTogether(const BestCodesRequest& r, std::vector<int64_t>* list);
  bool SelectEach(const BestCodesRequest& r, const Search& search, std::vector<int64_t>* list);
  void WeighUnselected(const Search& search, const std::vector<int64_t>& list);

  std::vector<QuantisedTables> tables_;                // of every kScanQueries queries
  std::vector<std::vector<uint16_t>> position_steps_;  // of every tables_: as in ScanTask, or empty
  std::vector<Query> queries_;                         // [G]
  std::vector<Search> searches_;                       // one for each of the tables, or [G]
  std::vector<float> floats_, ranks_, more_ranks_, merged_ranks_;
  std::vector<int32_t> scratch_;
  std::vector<uint16_t> worth_;
  std::vector<uint32_t> rows_, merged_rows_;
  std::vector<size_t> left_;
  std::vector<uint8_t> selected_;  // [rows], zeros between calls
  std::vector<int64_t> best_;
};

}  // namespace pqcache
