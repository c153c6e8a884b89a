#include "attention/exact_ranking.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "pqcache/base/check.h"

namespace pqcache::attention {

void ExactRanking::Begin(const Step& step) {
  step_ = step;
  lists_.resize(step.lists);
  for (List& list : lists_) {
    list.rows.clear();
    list.by_row.clear();
    list.copies.clear();
  }
}

void ExactRanking::Add(size_t list, std::span<const uint8_t* const> rows, Rows kind) {
  List& to = lists_[list];
  const auto first = std::ssize(to.rows);
  if (kind == Rows::kStay) {
    to.rows.insert(to.rows.end(), rows.begin(), rows.end());
  } else {
    auto copy = AlignedBuffer<uint8_t>::ForOverwrite(rows.size() * step_.row_bytes);
    for (size_t i = 0; i < rows.size(); ++i) {
      uint8_t* row = copy.data() + i * step_.row_bytes;
      std::memcpy(row, rows[i], step_.row_bytes);
      to.rows.push_back(row);
    }
    to.copies.push_back(std::move(copy));
  }
  const int g = step_.g;
  const float* queries = step_.queries + static_cast<int64_t>(list) * g * step_.format.dim;
  block_.resize(static_cast<size_t>(g * kRowBlock));
  for (int64_t begin = first; begin < std::ssize(to.rows); begin += kRowBlock) {
    const int64_t count = std::min(kRowBlock, std::ssize(to.rows) - begin);
    RowLogits({step_.format, to.rows, begin, count, g}, queries, step_.scale, block_.data());
    for (int64_t i = 0; i < count; ++i) {
      for (int q = 0; q < g; ++q) to.by_row.push_back(block_[q * kRowBlock + i]);
    }
  }
}

void ExactRanking::ArrangeLogits(size_t list) {
  List& of = lists_[list];
  const int64_t n = std::ssize(of.rows);
  const int g = step_.g;
  of.logits.resize(of.by_row.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int q = 0; q < g; ++q) of.logits[q * n + i] = of.by_row[i * g + q];
  }
}

void ExactRanking::Keep(size_t list, const SelectionPolicy& policy, int64_t tokens,
                        const float* rest_lse, std::span<const float> bonus,
                        std::vector<int64_t>* candidates, PartialAttention* state) {
  List& from = lists_[list];
  const int64_t n = std::ssize(from.rows);
  const int g = step_.g;
  PQCACHE_CHECK(n == std::ssize(*candidates), "a row for every candidate");
  const std::span<const float> exact = logits(list);
  SelectionRequest request;
  request.g = g;
  request.n = n;
  request.scores = exact.data();
  request.bonus = bonus.empty() ? nullptr : bonus.data();
  request.rest_lse = rest_lse;
  request.tokens = tokens;
  policy.Select(request, &scratch_, &from.kept);
  const int64_t k = std::ssize(from.kept);
  kept_rows_.clear();
  kept_candidates_.clear();
  kept_logits_.resize(static_cast<size_t>(g * k));
  for (int64_t i = 0; i < k; ++i) {
    const int64_t at = from.kept[i];
    kept_rows_.push_back(from.rows[at]);
    kept_candidates_.push_back((*candidates)[at]);
    for (int q = 0; q < g; ++q) kept_logits_[q * k + i] = exact[q * n + at];
  }
  candidates->swap(kept_candidates_);
  state->AddRowsWithLogits(step_.format, kept_rows_, kept_logits_.data(), k);
}

}  // namespace pqcache::attention
