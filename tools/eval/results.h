#pragma once

// What one policy did with one sample, as a line of predictions.jsonl, and the means of many, as a
// row of metrics.json: every number of a row follows from the lines.

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attention/attention_stats.h"
#include "pqcache/base/json.h"

namespace pqcache::tools {

// What identifies a line: samples are the same for all policies of a run.
struct SampleKey {
  std::string task;
  int64_t ctx = 0;
  double depth = -1;   // share of the context before the fact; -1: samples spread over all
  int64_t sample = 0;  // number among those of the same task, length and depth
  std::string policy;
  double budget = -1;  // share of the context; -1: that of the command line

  bool operator==(const SampleKey&) const = default;
};

struct SampleTurn {
  std::string answer, predicted;                       // the first reference, what was said
  std::vector<std::pair<std::string, double>> scores;  // by metric; the first one counts
  bool stopped = false;  // by a stop or the end of the text, not by the number of its tokens
};

struct SampleResult {
  SampleKey key;
  double sample_depth = -1;       // of this sample
  std::vector<SampleTurn> turns;  // empty: perplexity
  double loss = 0;                // mean in nats (perplexity)
  bool truncated = false;
  double prefill_ms = 0, first_ms = 0;  // the prompt; the first question, or step
  std::vector<double> gaps_ms;          // between further tokens
  double resident_bytes = 0, flops_per_token = 0;
  double attended = 0, context = 0;  // tokens of a step (a mean), and those so far
  // Of judged steps, means per layer and KV head; empty if none were.
  struct Judged {
    double recall = 0, mass = 0, output_error = 0;
  };
  std::vector<std::vector<Judged>> judged;  // [L][Hkv]
  Json source;                              // see EvalSample

  Json ToJson() const;
  static Result<SampleResult> FromJson(const Json& json);
};

// Of a sequence's statistics, if steps were judged.
std::vector<std::vector<SampleResult::Judged>> JudgedHeads(const attention::AttentionStats& stats);

// One row for each (task, ctx, depth, policy, budget), in order of first appearance.
Json SummariseResults(std::span<const SampleResult> results);

// metrics.json's rows as a table.
std::string ResultTable(const Json& rows);

// A result as a line of HELM's format: request and result of a completion.
Json HelmLine(const SampleResult& result);

}  // namespace pqcache::tools
