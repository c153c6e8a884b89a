#pragma once

// Runs evaluation samples under several policies: one exact prefill per sample, then one fork per
// policy.

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/decoder/session.h"
#include "attention/tokenizer/tokenizer.h"
#include "tools/eval/results.h"
#include "tools/eval/sample.h"
#include "tools/model_flags.h"

namespace pqcache::tools {

struct EvalPolicy {
  std::string name;
  double budget = -1;  // share of the context; -1: that of the command line
  attention::CacheAttentionOptions options;
};

class EvalRunner {
 public:
  // Borrows everything. With `step_exact`, exact perplexity is decoded token by token, too.
  EvalRunner(const attention::Decoder* decoder, const attention::Tokenizer* tokenizer,
             const AttentionFlags* flags, const std::vector<EvalPolicy>* policies, bool step_exact)
      : decoder_(decoder),
        tokenizer_(tokenizer),
        flags_(flags),
        policies_(policies),
        step_exact_(step_exact) {}

  // Loads codebooks and opens the store.
  Status Open();

  // Gets the result of a policy, whose key it completes.
  using Sink = std::function<Status(const EvalPolicy& policy, SampleResult result)>;

  // The context is prefilled exactly; questions and answers are decoded under each policy, one
  // after the other.
  Status RunSample(const EvalSample& sample, std::span<const EvalPolicy* const> policies,
                   const Sink& sink);

  // Perplexity of the last `scored` tokens of a window, token by token through the cache after an
  // exact prefill of the rest; the exact policy takes its losses from the prefill itself (unless
  // step_exact): the same attention over the same stored keys and values.
  Status RunWindow(std::span<const int64_t> window, int64_t scored,
                   std::span<const EvalPolicy* const> policies, const Sink& sink);

 private:
  // `recorded`: for forks under policies that have to know how the prompt attended.
  Result<std::unique_ptr<attention::Session>> StartSession(bool recorded) const;
  // The prompt's time as a policy pays it: with the recording if it needs that.
  static double PrefillMs(double ms, const attention::Session& parent, const EvalPolicy& policy);
  // Of codebooks that do not fit a prompt: once.
  void WarnOnce(const attention::Session& parent);
  // `logits` are of the prompt, for a question that it ends with.
  Result<SampleTurn> Answer(attention::Session* session, const EvalQuestion& question, bool goes_on,
                            std::vector<float> logits, SampleResult* result) const;
  // `goes_on`: another question follows, so the session takes the answer's last token, too.
  Status Generate(attention::Session* session, const EvalQuestion& question, bool goes_on,
                  std::vector<float>* logits, SampleTurn* turn, SampleResult* result) const;
  Result<std::string> Choose(attention::Session* session, const EvalQuestion& question,
                             std::vector<float> logits) const;
  Status DecodeWindow(attention::Session* session, std::span<const int64_t> window, int64_t scored,
                      std::vector<float> logits, SampleResult* result) const;
  Result<SampleResult> ExactWindow(std::span<const int64_t> window, int64_t scored) const;
  void AddStats(const attention::Session& session, const EvalPolicy& policy,
                SampleResult* result) const;
  // Of a token whose query heads attend to `attended` tokens each: multiplications and additions.
  double FlopsPerToken(double attended) const;

  const attention::Decoder* decoder_;
  const attention::Tokenizer* tokenizer_;
  const AttentionFlags* flags_;
  const std::vector<EvalPolicy>* policies_;
  bool step_exact_;
  bool warned_ = false;
  std::unique_ptr<PageStore> store_;
  attention::SessionStorage storage_;
};

}  // namespace pqcache::tools
