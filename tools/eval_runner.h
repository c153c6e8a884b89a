#pragma once

// Runs evaluation samples under several policies: one exact prefill per sample, then one fork per
// policy. Results are sums that the caller turns into means.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "attention/decoder/session.h"
#include "attention/tokenizer/tokenizer.h"
#include "tools/eval_tasks.h"
#include "tools/model_flags.h"

namespace pqcache::tools {

struct EvalPolicy {
  std::string name;
  attention::CacheAttentionOptions options;
};

// Of one task, policy, context length and depth.
struct EvalResult {
  std::string task, policy;
  int64_t ctx = 0;
  double depth = -1;  // share of the context before the fact; -1: several
  int64_t samples = 0;
  double score = 0;  // sum of right answers (retrieval tasks)
  double loss = 0;   // sum over samples of the mean loss in nats (ppl)
  double prefill_ms = 0, first_ms = 0, step_ms = 0;
  int64_t steps = 0;
  double resident_bytes = 0;                  // sum over samples
  double attended = 0, attended_context = 0;  // selected tokens, and the context they are out of
  attention::HeadStats judged;                // sums of the steps that --shadow judged
  bool is_ppl = false;

  Json ToJson() const;
};

// What one policy answered to one sample.
struct Prediction {
  std::string task, policy, answer, predicted;
  int64_t ctx = 0, sample = 0;
  double depth = 0;
  bool right = false;
};

class EvalRunner {
 public:
  // Borrows everything.
  EvalRunner(const attention::Decoder* decoder, const attention::Tokenizer* tokenizer,
             const AttentionFlags* flags, const std::vector<EvalPolicy>* policies)
      : decoder_(decoder), tokenizer_(tokenizer), flags_(flags), policies_(policies) {}

  // Loads codebooks and opens the store.
  Status Open();

  // Retrieval: the context is prefilled exactly before the question is known; question and answer
  // are decoded under each policy. results, one per policy, are added to.
  Status RunSample(const TaskSample& sample, std::span<EvalResult> results,
                   std::vector<Prediction>* predictions);

  // Perplexity of the last `scored` tokens of a window, token by token through the cache after an
  // exact prefill of the rest; the exact policy takes its losses from the prefill itself: the same
  // attention over the same stored keys and values.
  Status RunWindow(std::span<const int64_t> window, int64_t scored, std::span<EvalResult> results);

 private:
  Result<std::unique_ptr<attention::Session>> StartSession() const;
  Result<std::string> Answer(attention::Session* session, const TaskSample& sample,
                             EvalResult* result) const;
  Status DecodeWindow(attention::Session* session, std::span<const int64_t> window, int64_t scored,
                      std::vector<float> logits, EvalResult* result) const;
  Status ExactWindow(std::span<const int64_t> window, int64_t scored, EvalResult* result) const;
  static void AddStats(const attention::Session& session, uint64_t store_bytes, ScoreSource source,
                       EvalResult* result);

  const attention::Decoder* decoder_;
  const attention::Tokenizer* tokenizer_;
  const AttentionFlags* flags_;
  const std::vector<EvalPolicy>* policies_;
  std::unique_ptr<PageStore> store_;
  attention::SessionStorage storage_;
};

}  // namespace pqcache::tools
