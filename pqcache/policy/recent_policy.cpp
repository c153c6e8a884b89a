// Sinks and local window, nothing else: H2O's local baseline (Zhang et al., 2023), the floor that
// every selection must beat.

#include "pqcache/policy/policy_factories.h"

namespace pqcache {
namespace {

class RecentPolicy : public SelectionPolicy {
 public:
  ScoreSource score_source() const override { return ScoreSource::kNone; }
  void Select(const SelectionRequest&, SelectionScratch*,
              std::vector<int64_t>* positions) const override {
    positions->clear();
  }
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreateRecentPolicy(const SpecString& spec) {
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown({}));
  return std::unique_ptr<SelectionPolicy>(std::make_unique<RecentPolicy>());
}

}  // namespace pqcache
