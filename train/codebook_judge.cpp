#include "train/codebook_judge.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "pqcache/base/check.h"
#include "pqcache/base/top_k.h"
#include "pqcache/base/vector_math.h"
#include "pqcache/index/flat_index.h"
#include "pqcache/index/pq_index.h"
#include "train/linear_algebra.h"

namespace pqcache::train {
namespace {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return std::max<int64_t>(end - begin, 0); }
};

Range CandidatesOf(int64_t position, const JudgeOptions& options) {
  return {options.n_sink, position - options.window + 1};
}

// [N, count, D]: heads first .. first + count - 1 of rows [N, heads, D].
std::vector<float> TakeHeads(const std::vector<float>& rows, int64_t heads, int64_t first,
                             int64_t count, int64_t dim) {
  std::vector<float> taken;
  const int64_t n = std::ssize(rows) / (heads * dim);
  taken.reserve(static_cast<size_t>(n * count * dim));
  for (int64_t i = 0; i < n; ++i) {
    const auto row = rows.begin() + (i * heads + first) * dim;
    taken.insert(taken.end(), row, row + count * dim);
  }
  return taken;
}

double Share(const std::vector<int64_t>& found, const std::vector<int64_t>& wanted) {
  std::vector<int64_t> common;
  std::set_intersection(found.begin(), found.end(), wanted.begin(), wanted.end(),
                        std::back_inserter(common));
  return static_cast<double>(common.size()) / static_cast<double>(wanted.size());
}

// Recall and mass of the scores of one query against the exact ones.
class QueryJudge {
 public:
  void Judge(const float* exact, const float* approximate, int64_t n, HeadJudgement* sum) {
    Select(exact, approximate, n, kJudgeTop);
    sum->recall_at_100 += Share(found_, wanted_);
    SelectTopK(approximate, n, kJudgeOverfetch * kJudgeTop, &scratch_, &found_);
    sum->recall_in_400 += Share(found_, wanted_);
    Select(exact, approximate, n, (n + kJudgeOneIn - 1) / kJudgeOneIn);
    const double best = *std::max_element(exact, exact + n);
    sum->mass_at_2pct += Mass(exact, best, found_) / Mass(exact, best, wanted_);
  }

 private:
  void Select(const float* exact, const float* approximate, int64_t n, int64_t k) {
    SelectTopK(exact, n, k, &scratch_, &wanted_);
    SelectTopK(approximate, n, k, &scratch_, &found_);
  }

  static double Mass(const float* logits, double largest, const std::vector<int64_t>& positions) {
    double mass = 0;
    for (int64_t p : positions) mass += std::exp(logits[p] - largest);
    return mass;
  }

  std::vector<int32_t> scratch_;
  std::vector<int64_t> wanted_;  // ascending
  std::vector<int64_t> found_;   // ascending
};

double RelativeError(const std::vector<float>& keys, const std::vector<float>& decoded, int dim) {
  double error = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    const double difference = double{keys[i]} - decoded[i];
    error += difference * difference;
  }
  const double rows = static_cast<double>(keys.size()) / dim;
  const double variance = TotalVariance(keys, dim);
  return variance > 0 ? error / rows / variance : 0.0;
}

// recall_at_100 and mass_at_2pct of queries [Nq, G, D].
HeadJudgement JudgeQueries(const KeyIndex& exact, const KeyIndex& codes, const HeldOut& held_out,
                           const std::vector<float>& queries, const JudgeOptions& options) {
  const int group = held_out.group;
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(held_out.dim)));
  std::vector<float> exact_scores(static_cast<size_t>(group * held_out.tokens));
  std::vector<float> code_scores(exact_scores.size());
  HeadJudgement sum;
  QueryJudge judge;
  int64_t judged = 0;
  for (size_t i = 0; i < held_out.query_positions.size(); ++i) {
    const Range range = CandidatesOf(held_out.query_positions[i], options);
    if (range.size() == 0) continue;
    const float* query = queries.data() + i * static_cast<size_t>(group * held_out.dim);
    exact.Score(group, query, scale, range.begin, range.end, exact_scores.data());
    codes.Score(group, query, scale, range.begin, range.end, code_scores.data());
    for (int g = 0; g < group; ++g, ++judged) {
      judge.Judge(&exact_scores[g * range.size()], &code_scores[g * range.size()], range.size(),
                  &sum);
    }
  }
  sum.recall_at_100 /= static_cast<double>(judged);
  sum.recall_in_400 /= static_cast<double>(judged);
  sum.mass_at_2pct /= static_cast<double>(judged);
  return sum;
}

Result<HeadJudgement> JudgeHead(const HeadCodebook& codebook, const HeldOut& held_out, int layer,
                                int kv_head, const JudgeOptions& options) {
  const int dim = held_out.dim;
  const int group = held_out.group;
  const HeldOutLayer& rows = held_out.layers[static_cast<size_t>(layer)];
  const std::vector<float> keys = TakeHeads(rows.keys, held_out.kv_heads, kv_head, 1, dim);
  const std::vector<float> queries =
      TakeHeads(rows.queries, held_out.kv_heads * group, int64_t{kv_head} * group, group, dim);
  if (!AllFinite(keys.data(), std::ssize(keys)) ||
      !AllFinite(queries.data(), std::ssize(queries))) {
    return Status::InvalidArgument("held-out keys or queries have numbers that are not finite");
  }
  // The codebook outlives the index: no ownership is shared.
  PqIndex codes(std::shared_ptr<const HeadCodebook>(std::shared_ptr<void>(), &codebook));
  FlatIndex exact(dim);
  codes.Append(held_out.tokens, keys.data());
  exact.Append(held_out.tokens, keys.data());
  std::vector<float> decoded(keys.size());
  codes.Reconstruct(0, held_out.tokens, decoded.data());

  HeadJudgement judgement = JudgeQueries(exact, codes, held_out, queries, options);
  judgement.relative_mse = RelativeError(keys, decoded, dim);
  judgement.residual_growth = codes.residuals().all;
  return judgement;
}

Status CheckEqual(int64_t found, int64_t expected, const std::string& name) {
  if (found == expected) return Status::Ok();
  return Status::InvalidArgument("held-out " + name + " is " + std::to_string(found) +
                                 ", expected " + std::to_string(expected));
}

Status CheckSizes(const CodebookSet& set, const HeldOut& held_out) {
  PQCACHE_RETURN_IF_ERROR(CheckEqual(std::ssize(held_out.layers), set.layers, "layer count"));
  PQCACHE_RETURN_IF_ERROR(CheckEqual(held_out.kv_heads, set.kv_heads, "KV head count"));
  PQCACHE_RETURN_IF_ERROR(CheckEqual(held_out.dim, set.shape().dim, "head size"));
  if (held_out.group < 1 || held_out.tokens < 1) {
    return Status::InvalidArgument("held-out sequence has " + std::to_string(held_out.tokens) +
                                   " tokens and " + std::to_string(held_out.group) +
                                   " query heads per KV head, expected at least 1 of both");
  }
  const int64_t row = int64_t{held_out.kv_heads} * held_out.dim;
  const int64_t query_rows = std::ssize(held_out.query_positions) * held_out.group;
  for (const HeldOutLayer& layer : held_out.layers) {
    PQCACHE_RETURN_IF_ERROR(
        CheckEqual(std::ssize(layer.keys), held_out.tokens * row, "number count of the keys"));
    PQCACHE_RETURN_IF_ERROR(
        CheckEqual(std::ssize(layer.queries), query_rows * row, "number count of the queries"));
  }
  return Status::Ok();
}

// Queries per head with at least one candidate, in rows; an error if there are none.
Result<int64_t> CountQueries(const HeldOut& held_out, const JudgeOptions& options) {
  if (options.n_sink < 0 || options.window < 0) {
    return Status::InvalidArgument("judge: sinks and window are " + std::to_string(options.n_sink) +
                                   " and " + std::to_string(options.window) +
                                   ", expected no negative number");
  }
  int64_t count = 0;
  for (int64_t position : held_out.query_positions) {
    if (position < 0 || position >= held_out.tokens) {
      return Status::InvalidArgument("held-out query position is " + std::to_string(position) +
                                     ", expected one of 0 to " +
                                     std::to_string(held_out.tokens - 1));
    }
    if (CandidatesOf(position, options).size() > 0) count += held_out.group;
  }
  if (count == 0) {
    return Status::InvalidArgument("held-out sequence has " + std::to_string(held_out.tokens) +
                                   " tokens, expected queries with more than " +
                                   std::to_string(options.n_sink) + " sinks and a window of " +
                                   std::to_string(options.window) + " tokens before them");
  }
  return count;
}

void Summarize(JudgeReport* report) {
  report->worst = report->heads.front();
  for (const HeadJudgement& head : report->heads) {
    const auto share = 1.0 / static_cast<double>(report->heads.size());
    report->mean.recall_at_100 += share * head.recall_at_100;
    report->mean.recall_in_400 += share * head.recall_in_400;
    report->mean.mass_at_2pct += share * head.mass_at_2pct;
    report->mean.relative_mse += share * head.relative_mse;
    report->mean.residual_growth += share * head.residual_growth;
    report->worst.recall_at_100 = std::min(report->worst.recall_at_100, head.recall_at_100);
    report->worst.recall_in_400 = std::min(report->worst.recall_in_400, head.recall_in_400);
    report->worst.mass_at_2pct = std::min(report->worst.mass_at_2pct, head.mass_at_2pct);
    report->worst.relative_mse = std::max(report->worst.relative_mse, head.relative_mse);
    report->worst.residual_growth = std::max(report->worst.residual_growth, head.residual_growth);
  }
}

void SetFields(const HeadJudgement& judgement, Json* json) {
  json->Set("recall_at_100", judgement.recall_at_100);
  json->Set("recall_in_400", judgement.recall_in_400);
  json->Set("mass_at_2pct", judgement.mass_at_2pct);
  json->Set("relative_mse", judgement.relative_mse);
  json->Set("residual_growth", judgement.residual_growth);
}

}  // namespace

Result<JudgeReport> JudgeCodebooks(const CodebookSet& set, const HeldOut& held_out,
                                   const JudgeOptions& options, ThreadPool* pool) {
  PQCACHE_CHECK(pool != nullptr, "judging needs a thread pool");
  PQCACHE_RETURN_IF_ERROR(CheckSizes(set, held_out));
  JudgeReport report;
  report.layers = set.layers;
  report.kv_heads = set.kv_heads;
  report.tokens = held_out.tokens;
  PQCACHE_ASSIGN_OR_RETURN(report.queries, CountQueries(held_out, options));
  std::vector<Result<HeadJudgement>> outcomes(set.heads.size(), Status::Internal("not judged"));
  pool->Run(std::ssize(outcomes), [&](int64_t i) {
    outcomes[i] = JudgeHead(set.heads[i], held_out, static_cast<int>(i / set.kv_heads),
                            static_cast<int>(i % set.kv_heads), options);
  });
  for (int64_t i = 0; i < std::ssize(outcomes); ++i) {
    PQCACHE_RETURN_IF_ERROR(outcomes[i].status().Annotate(
        "layer " + std::to_string(i / set.kv_heads) + " head " + std::to_string(i % set.kv_heads)));
    report.heads.push_back(*outcomes[i]);
  }
  Summarize(&report);
  return report;
}

Json JudgeReport::ToJson() const {
  Json json;
  json.Set("tokens", tokens);
  json.Set("queries", queries);
  Json mean_json;
  SetFields(mean, &mean_json);
  json.Set("mean", std::move(mean_json));
  Json worst_json;
  SetFields(worst, &worst_json);
  json.Set("worst", std::move(worst_json));
  Json heads_json{Json::Array{}};
  for (size_t i = 0; i < heads.size(); ++i) {
    Json head;
    head.Set("layer", i / static_cast<size_t>(kv_heads));
    head.Set("kv_head", i % static_cast<size_t>(kv_heads));
    SetFields(heads[i], &head);
    heads_json.Push(std::move(head));
  }
  json.Set("heads", std::move(heads_json));
  return json;
}

Status TakeResiduals(const JudgeReport& judged, CodebookSet* set) {
  PQCACHE_CHECK(judged.heads.size() == set->heads.size(), "a judgement of these codebooks");
  for (size_t i = 0; i < set->heads.size(); ++i) {
    HeadCodebook& head = set->heads[i];
    const double growth = judged.heads[i].residual_growth;
    if (growth == 0) continue;
    PQCACHE_ASSIGN_OR_RETURN(
        head, head.WithResidual(static_cast<float>(growth * double{head.residual()})));
  }
  return Status::Ok();
}

}  // namespace pqcache::train
