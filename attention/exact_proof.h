#pragma once

// What upper bounds of exact logits prove of a choice of the best k tokens. Tokens that were found
// have an exact logit [C]; each of the others has a bound [N], minus infinity at the places of
// those that were found.
//
// All of it is true but for the rounding of float32 sums: exact logits that differ by less are the
// same here. Which of two equal tokens is selected is left open.

#include <cstdint>
#include <span>
#include <vector>

namespace pqcache::attention {

// Tokens that may be among the best k, and that one has to read to know: those whose bound reaches
// the k-th largest of the exact logits, of too many the `most` with the highest bounds. Ascending
// places in bounds. `left`: the bounds of the doubtful ones beyond those, for CountProven. A bound
// that is not a number counts as infinity. 1 <= k <= C, most >= 0.
void FindDoubtful(std::span<const float> bounds, std::span<const float> exact, int64_t k,
                  int64_t most, std::vector<int64_t>* doubtful, std::vector<float>* left);

// How many of the k largest exact logits are certainly among the k largest of all tokens: those
// that fewer than k tokens can surpass, found ones and bounds counted. k: the choice is exact.
// 0 <= k <= C. The bounds are numbers: of all tokens without an exact logit or, when the doubtful
// ones have been found, of those that are left, since no other can surpass any of the best.
int64_t CountProven(std::span<const float> bounds, std::span<const float> exact, int64_t k);

// By exact logits [N] of all tokens: whether none that is not selected has a larger one, by more
// than `rounding`, than one that is. This is what proofs are judged by.
bool IsBest(std::span<const int64_t> selected, std::span<const float> logits, float rounding);

}  // namespace pqcache::attention
