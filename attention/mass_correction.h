#pragma once

// How much more attention mass tokens have than their codes say, learnt while decoding. A code
// stands for the mean of its keys, and the mean of exponentials is more than the exponential of
// the mean, so what is left out weighs more than it seems; by how much depends on the head and on
// how far the text is from that of the training. Of the tokens that a step fetches, those that
// were chosen last are most like the ones it leaves out, and their exact logits are known.
//
// Alphabet: G query heads that share the keys, Q queries of a step (its tokens times G).

#include <cstdint>
#include <span>
#include <vector>

#include "attention/row_products.h"

namespace pqcache::attention {

// Of one layer and KV head, over its steps. One thread at a time.
class MassCorrection {
 public:
  explicit MassCorrection(int group) : masses_(static_cast<size_t>(group)) {}
  int group() const { return static_cast<int>(masses_.size()); }  // G
  // What to add to the logarithm of a mass by codes, of query head g; before the first step
  // `prior`.
  float nats(int g, float prior) const;
  // One step found tokens of this share of its mass, and of that by their codes, summed over its
  // tokens. Each step counts 15 % less than the next.
  void Observe(int g, double exact, double coded);

 private:
  struct Masses {
    double exact = 0, coded = 0;
  };
  std::vector<Masses> masses_;  // [G], of all steps
};

// The sample of one step: a quarter of every list of selected tokens, those with the smallest share
// of the mass, on average over the queries of the list.
class MassSample {
 public:
  struct Step {
    int queries = 0;                              // Q
    const float* query = nullptr;                 // [Q, D]
    float scale = 0;                              // of logits
    RowFormat format;                             // of rows
    const float* scores = nullptr;                // [Q, N] of all candidates
    int64_t candidates = 0;                       // N
    std::span<const std::vector<int64_t>> lists;  // one for all queries, or [Q]
    std::span<const float> always_lse;            // [Q] of what is attended beside them
  };
  // Everything that the step points to stays until Finish.
  void Begin(const Step& step);
  // Rows of the list from its place `first` on.
  void Add(size_t list, size_t first, std::span<const uint8_t* const> rows);
  void Finish(MassCorrection* correction) const;

 private:
  struct Sums {
    double total = 0;             // log of the mass that is known
    double exact = 0, coded = 0;  // mass of the sample over that
  };
  // Queries that share a list.
  int first_query(size_t list) const { return step_.lists.size() > 1 ? static_cast<int>(list) : 0; }
  int num_queries() const { return step_.lists.size() > 1 ? 1 : step_.queries; }

  Step step_;
  std::vector<std::vector<bool>> sampled_;  // of every list, by place
  std::vector<Sums> sums_;                  // [Q]
  std::vector<float> ranks_, sorted_, logits_;
  std::vector<const uint8_t*> rows_;
  std::vector<int64_t> candidates_;
};

}  // namespace pqcache::attention
