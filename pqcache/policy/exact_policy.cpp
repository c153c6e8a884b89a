// Every token, every step: full attention through the same cache. The judge of the others.

#include <numeric>

#include "pqcache/policy/policy_factories.h"

namespace pqcache {
namespace {

class ExactPolicy : public SelectionPolicy {
 public:
  ScoreSource score_source() const override { return ScoreSource::kNone; }
  bool attends_all() const override { return true; }
  bool uses_budget() const override { return false; }
  void Select(const SelectionRequest& request, SelectionScratch*,
              std::vector<int64_t>* positions) const override {
    positions->resize(static_cast<size_t>(request.n));
    std::iota(positions->begin(), positions->end(), 0);
  }
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreateExactPolicy(const SpecString& spec) {
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown({}));
  return std::unique_ptr<SelectionPolicy>(std::make_unique<ExactPolicy>());
}

}  // namespace pqcache
