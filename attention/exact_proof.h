#pragma once

// What upper bounds of exact logits prove of a choice of the best k tokens. Tokens that were found
// have an exact logit [C]; each of the others has a bound [N], minus infinity at the places of
// those that were found.

#include <cstdint>
#include <span>
#include <vector>

namespace pqcache::attention {

// Tokens that may be among the best k, and that one has to read to know: those whose bound reaches
// the k-th largest of the exact logits, of too many the `most` with the highest bounds. Ascending
// places in bounds. 1 <= k <= C.
void FindDoubtful(std::span<const float> bounds, std::span<const float> exact, int64_t k,
                  int64_t most, std::vector<int64_t>* doubtful);

// How many of the k largest exact logits are certainly among the k largest of all tokens: those
// that fewer than k tokens can surpass, found ones and bounds counted. k: the choice is exact.
// 0 <= k <= C.
int64_t CountProven(std::span<const float> bounds, std::span<const float> exact, int64_t k);

}  // namespace pqcache::attention
