#include "attention/exact_proof.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "pqcache/base/top_k.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

struct Scratch {
  std::vector<int32_t> top_k;
  std::vector<float> doubts, best;
  std::vector<int64_t> places, kept;
};

Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

}  // namespace

void FindDoubtful(std::span<const float> bounds, std::span<const float> exact, int64_t k,
                  int64_t most, std::vector<int64_t>* doubtful, std::vector<float>* left) {
  Scratch& scratch = ThreadScratch();
  const float worst = KthLargest(exact.data(), std::ssize(exact), k, &scratch.top_k);
  scratch.places.clear();
  left->clear();
  for (size_t t = 0; t < bounds.size(); ++t) {
    if (bounds[t] < worst) continue;
    scratch.places.push_back(static_cast<int64_t>(t));
    // Not a number: nothing is known.
    left->push_back(std::isnan(bounds[t]) ? std::numeric_limits<float>::infinity() : bounds[t]);
  }
  SelectTopK(left->data(), std::ssize(*left), most, &scratch.top_k, &scratch.kept);
  doubtful->clear();
  for (const int64_t i : scratch.kept) {
    doubtful->push_back(scratch.places[static_cast<size_t>(i)]);
    (*left)[static_cast<size_t>(i)] = -std::numeric_limits<float>::infinity();
  }
  std::erase(*left, -std::numeric_limits<float>::infinity());
}

int64_t CountProven(std::span<const float> bounds, std::span<const float> exact, int64_t k) {
  if (k == 0) return 0;
  Scratch& scratch = ThreadScratch();
  std::vector<float>& best = scratch.best;
  best.assign(exact.begin(), exact.end());
  std::partial_sort(best.begin(), best.begin() + k, best.end(), std::greater<>());
  std::vector<float>& doubts = scratch.doubts;
  doubts.clear();
  for (const float bound : bounds) {
    if (std::isnan(bound)) return 0;
    if (bound >= best[static_cast<size_t>(k - 1)]) doubts.push_back(bound);
  }
  if (std::ssize(doubts) > k) {  // k of them are enough to leave room for nothing else
    std::nth_element(doubts.begin(), doubts.begin() + k, doubts.end(), std::greater<>());
    doubts.resize(static_cast<size_t>(k));
  }
  std::sort(doubts.begin(), doubts.end(), std::greater<>());
  size_t rivals = 0;  // bounds that reach the exact logit at hand
  for (int64_t i = 0; i < k; ++i) {
    while (rivals < doubts.size() && doubts[rivals] >= best[static_cast<size_t>(i)]) ++rivals;
    if (i + static_cast<int64_t>(rivals) >= k) return i;
  }
  return k;
}

bool IsBest(std::span<const int64_t> selected, std::span<const float> logits, float rounding) {
  float worst = std::numeric_limits<float>::infinity();
  std::vector<float> others(logits.begin(), logits.end());
  for (const int64_t t : selected) {
    worst = std::min(worst, logits[static_cast<size_t>(t)]);
    others[static_cast<size_t>(t)] = -std::numeric_limits<float>::infinity();
  }
  return MaxOf(others.data(), std::ssize(others)) <= worst + rounding;
}

}  // namespace pqcache::attention
