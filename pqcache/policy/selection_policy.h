#pragma once

// Which of the middle tokens (neither sinks nor local window) a decode step attends to.
//
// A policy is one of three kinds:
//   - it selects by scores (Select), and never sees where they come from: codes, exact keys and GPU
//     kernels are all score sources;
//   - it selects by what it remembers of the keys (NewSelector): block summaries, hash tables;
//   - it keeps some tokens and drops the others for good (NewRetention).
// Policies are stateless and const; call them from any thread. What they remember is in the
// objects that they make.
//
// Alphabet: G query heads that select together, N candidate tokens.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "pqcache/base/spec_string.h"
#include "pqcache/base/status.h"
#include "pqcache/policy/layer_selector.h"
#include "pqcache/policy/token_retention.h"

namespace pqcache {

// What a policy needs before it can select.
enum class ScoreSource {
  kNone,   // nothing: it selects by position alone
  kCodes,  // inner products with decoded product-quantisation codes
  kKeys,   // inner products with exact keys held in memory
};

// What a policy has to be told about how the tokens of the prompt attended to one another.
struct PromptNeeds {
  bool all = false;    // how much attention every token received from all of the prompt
  bool local = false;  // the same when every token attends to its local window alone
  int64_t last = 0;    // how much it received from the last so many tokens of the prompt

  bool any() const { return all || local || last > 0; }
  void Add(const PromptNeeds& other);
};

// How many tokens to select: so many, or a share of the context; neither selects nothing. With a
// mass, they are the most that are selected, and neither means that any number may be.
struct SelectionBudget {
  int64_t tokens = 0;
  double ratio = 0;  // of the context, rounded
  // The smallest set that reaches this share of the estimated attention mass; of query heads that
  // select together, on average.
  double mass = 0;

  // Tokens to select with `context` tokens so far, with a mass at most.
  int64_t TokensFor(int64_t context) const;
};

struct SelectionRequest {
  int g = 0;                          // G
  int64_t n = 0;                      // N
  const float* scores = nullptr;      // [G, N] scaled logits; null for ScoreSource::kNone
  const float* always_lse = nullptr;  // [G] log-sum-exp of the logits that are attended anyway
  const float* rest_lse = nullptr;    // [G] of candidates that are not among the N; null: none are
  const float* bonus = nullptr;       // [N] nats by which candidates rank higher; null: none
  int64_t tokens = 0;                 // tokens to select
  double mass = 0;                    // share of the mass to reach, over candidates and always;
                                      // then `tokens` are the most, and
  int64_t least = 0;                  // so many the fewest
};

// Reused between calls, so that a steady state allocates nothing. One per thread.
struct SelectionScratch {
  std::vector<float> combined, weights;
  std::vector<int32_t> top_k;
  std::vector<int64_t> order;
  std::vector<double> totals;
};

class SelectionPolicy {
 public:
  virtual ~SelectionPolicy() = default;

  virtual ScoreSource score_source() const { return ScoreSource::kNone; }
  // True: every token is attended, so the result is that of full attention.
  virtual bool attends_all() const { return false; }
  // True: logits of selected tokens come from the codes, too, and exact keys are not stored.
  virtual bool codes_only() const { return false; }
  // So many times the tokens of the budget are taken by score and ranked once more by their exact
  // keys, which says which of them are attended to; 1: the scores say.
  virtual int overfetch() const { return 1; }
  // Given: tokens that the last step selected are candidates, too, and all are ranked by their
  // exact keys, those of the last step so many nats higher than they are.
  virtual std::optional<float> sticky_nats() const { return std::nullopt; }
  // Above 0: each query head selects for itself, and a step proves which of its tokens are the
  // exactly best ones. For that it reads, beside the over-fetched, tokens that may be among them,
  // in all up to so many times those of the budget.
  virtual int certify_most() const { return 0; }
  // True: with a budget of tokens it takes the best by score, so that whoever can find those
  // without a score for every candidate need not call Select.
  virtual bool selects_best() const { return false; }
  // This layer attends to every token.
  virtual bool dense(int /*layer*/) const { return false; }
  virtual PromptNeeds prompt_needs() const { return {}; }

  // Candidates to attend to: ascending, unique, in [0, n). Deterministic; of equal scores the
  // lower position wins. Not called where one of the following makes something.
  virtual void Select(const SelectionRequest& /*request*/, SelectionScratch* /*scratch*/,
                      std::vector<int64_t>* positions) const {
    positions->clear();
  }
  // The memory of one layer of one sequence; null: the policy has none.
  virtual std::unique_ptr<LayerSelector> NewSelector(const SelectorShape& /*shape*/) const {
    return nullptr;
  }
  // How many layers in a row use the choice of the first of them.
  virtual int layer_step() const { return 1; }
  // What one KV head of one sequence keeps; null: the policy drops nothing.
  virtual std::unique_ptr<TokenRetention> NewRetention(const RetentionShape& /*shape*/) const {
    return nullptr;
  }
  virtual bool drops() const { return false; }
  // False: how much is attended does not depend on the budget.
  virtual bool uses_budget() const { return true; }
  // More tokens are found than are attended to, and exact keys say which of them are.
  bool ranks_found() const { return overfetch() > 1 || sticky_nats(); }
  // A budget may be a share of the mass; those that rank what they found take a number of tokens.
  bool takes_mass() const { return score_source() != ScoreSource::kNone && !ranks_found(); }
  // Over-fetching more, where codes do not fit, finds more.
  bool gains_from_overfetch() const {
    return score_source() == ScoreSource::kCodes && !codes_only() && certify_most() == 0;
  }
  // True: what it keeps is chosen from a prompt, or measured by one; it cannot begin without.
  virtual bool needs_prompt() const { return false; }
  // True: however long the text, no two tokens that attend to one another are far apart.
  virtual bool bounds_distances() const { return false; }
};

// One row of THE LIST in policies.cpp.
struct PolicyEntry {
  std::string_view name;
  std::string_view help;
  Result<std::unique_ptr<SelectionPolicy>> (*create)(const SpecString& spec);
};

std::span<const PolicyEntry> Policies();

// "pq", "pq:codes_only", "exact", ...; errors list the known names and parameters.
Result<std::unique_ptr<SelectionPolicy>> CreatePolicy(std::string_view spec);

}  // namespace pqcache
