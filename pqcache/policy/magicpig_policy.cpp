// MagicPIG (Chen et al., "MagicPIG: LSH Sampling for Efficient LLM Generation", 2024).
//
// Keys, less their mean, are hashed by the signs of K = 10 random projections in each of L = 150
// tables. A query head attends to the tokens that share two hashes or more with it, each weighted
// by the inverse of the probability of that, so that the sample estimates full attention. How many
// tokens those are is a matter of K and L, not of the budget. Layers 0, 16, 32 and so on attend to
// everything. 304 bytes a key; nothing is forgotten. Unlike in the original, tokens that are
// generated are hashed, too, when they leave the local window; the mean is that of the prompt (of
// its first 16,384 tokens, or of the first 256 that leave the window, first tokens included) and
// stays; first tokens and window are those of the command line (4 and 64 in the original).

#include <mutex>
#include <string>

#include "pqcache/policy/hash_selector.h"
#include "pqcache/policy/policy_factories.h"

namespace pqcache {
namespace {

class MagicPigPolicy : public SelectionPolicy {
 public:
  MagicPigPolicy(const HashSettings& settings, int dense_every)
      : settings_(settings), dense_every_(dense_every) {}

  bool uses_budget() const override { return false; }
  bool dense(int layer) const override { return dense_every_ > 0 && layer % dense_every_ == 0; }
  std::unique_ptr<LayerSelector> NewSelector(const SelectorShape& shape) const override {
    return CreateHashSelector(settings_, Directions(shape.dim), shape);
  }

 private:
  // Made once for all layers.
  HashDirections Directions(int dim) const {
    const std::lock_guard lock(mutex_);
    if (directions_ == nullptr || dim != dim_) directions_ = MakeHashDirections(settings_, dim);
    dim_ = dim;
    return directions_;
  }

  HashSettings settings_;
  int dense_every_;
  mutable std::mutex mutex_;
  mutable HashDirections directions_;
  mutable int dim_ = 0;
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreateMagicPigPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"K", "L", "centre", "dense_every", "seed"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  HashSettings settings;
  PQCACHE_ASSIGN_OR_RETURN(settings.bits, spec.NumberOr<int>("K", 10));
  PQCACHE_ASSIGN_OR_RETURN(settings.tables, spec.NumberOr<int>("L", 150));
  PQCACHE_ASSIGN_OR_RETURN(settings.centre, spec.BoolOr("centre", true));
  PQCACHE_ASSIGN_OR_RETURN(const int dense_every, spec.NumberOr<int>("dense_every", 16));
  PQCACHE_ASSIGN_OR_RETURN(const int64_t seed, spec.IntOr("seed", 0));
  settings.seed = static_cast<uint64_t>(seed);
  if (settings.bits < 1 || settings.bits > 16 || settings.tables < 2 || settings.tables > 4096) {
    return Status::InvalidArgument("magicpig: K is " + std::to_string(settings.bits) + ", L is " +
                                   std::to_string(settings.tables) +
                                   ", expected 1 to 16 and 2 to 4096");
  }
  return std::unique_ptr<SelectionPolicy>(std::make_unique<MagicPigPolicy>(settings, dense_every));
}

}  // namespace pqcache
