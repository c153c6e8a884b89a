#include "attention/decoder/token_sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pqcache::attention {

Status SamplingOptions::Validate() const {
  const auto refuse = [](const char* name, double found, const char* expected) {
    return Status::InvalidArgument(std::string(name) + " is " + std::to_string(found) +
                                   ", expected " + expected);
  };
  if (!(temperature >= 0 && temperature <= 100)) return refuse("temp", temperature, "0 to 100");
  if (top_k < 0) return refuse("top-k", static_cast<double>(top_k), "0 or more");
  if (!(top_p > 0 && top_p <= 1)) return refuse("top-p", top_p, "above 0, at most 1");
  if (!(min_p >= 0 && min_p <= 1)) return refuse("min-p", min_p, "0 to 1");
  return Status::Ok();
}

TokenSampler::TokenSampler(const SamplingOptions& options)
    : options_(options), random_(options.seed) {}

int64_t TokenSampler::Pick(std::span<const float> logits) {
  if (options_.temperature == 0) return ArgMax(logits);
  const auto vocab = static_cast<int64_t>(logits.size());
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto better = [&](int64_t a, int64_t b) {
    return logits[static_cast<size_t>(a)] != logits[static_cast<size_t>(b)]
               ? logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]
               : a < b;
  };
  const bool filtered = options_.top_k > 0 || options_.top_p < 1 || options_.min_p > 0;
  if (filtered) std::sort(order_.begin(), order_.end(), better);
  int64_t kept = options_.top_k > 0 ? std::min(vocab, options_.top_k) : vocab;

  const double best = logits[static_cast<size_t>(ArgMax(logits))];
  double total = 0;
  weights_.clear();
  for (int64_t i = 0; i < kept; ++i) {
    const double logit = logits[static_cast<size_t>(order_[static_cast<size_t>(i)])];
    weights_.push_back(std::exp((logit - best) / options_.temperature));
    if (weights_.back() < options_.min_p) {
      weights_.pop_back();
      break;
    }
    total += weights_.back();
  }
  kept = static_cast<int64_t>(weights_.size());
  double reached = 0;
  for (int64_t i = 0; i < kept && options_.top_p < 1; ++i) {
    reached += weights_[static_cast<size_t>(i)];
    if (reached >= options_.top_p * total) {
      kept = i + 1;
      total = reached;
    }
  }
  double target = random_.Uniform() * total;
  for (int64_t i = 0; i < kept; ++i) {
    target -= weights_[static_cast<size_t>(i)];
    if (target < 0) return order_[static_cast<size_t>(i)];
  }
  return order_[static_cast<size_t>(kept - 1)];
}

int64_t ArgMax(std::span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

double LogSumExp(std::span<const float> logits) {
  const double best = logits[static_cast<size_t>(ArgMax(logits))];
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - best);
  return best + std::log(sum);
}

double LogProbability(std::span<const float> logits, int64_t token) {
  return logits[static_cast<size_t>(token)] - LogSumExp(logits);
}

}  // namespace pqcache::attention
