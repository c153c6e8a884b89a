#pragma once

// How many tokens a policy that drops tokens keeps, and what follows from that.

#include <algorithm>
#include <cstdint>
#include <string>

#include "pqcache/base/spec_string.h"
#include "pqcache/policy/selection_policy.h"

namespace pqcache {

struct RetentionSize {
  double ratio = 0;    // of the prompt; 0: `tokens` decides
  int64_t tokens = 0;  // 0: as many as a step of other policies attends to

  // "ratio" and "tokens", of which one may be given.
  static Result<RetentionSize> FromSpec(const SpecString& spec) {
    RetentionSize size;
    PQCACHE_ASSIGN_OR_RETURN(size.ratio, spec.ShareOr("ratio", 0));
    PQCACHE_ASSIGN_OR_RETURN(size.tokens, spec.IntOr("tokens", 0));
    if (size.ratio > 0 && size.tokens > 0) {
      return Status::InvalidArgument(spec.name + ": ratio and tokens are given, expected one");
    }
    return size;
  }

  bool given() const { return ratio > 0 || tokens > 0; }

  // At least one.
  int64_t Of(const RetentionShape& shape) const {
    const int64_t wanted = ratio > 0
                               ? static_cast<int64_t>(ratio * static_cast<double>(shape.prompt))
                           : tokens > 0 ? tokens
                                        : shape.budget;
    return std::max<int64_t>(1, wanted);
  }
};

// What the policies that keep so many tokens have in common.
class DroppingPolicy : public SelectionPolicy {
 public:
  explicit DroppingPolicy(const RetentionSize& size) : size_(size) {}

  bool drops() const override { return true; }
  bool uses_budget() const override { return !size_.given(); }
  bool needs_prompt() const override { return size_.ratio > 0 || prompt_needs().any(); }

 protected:
  RetentionSize size_;
};

}  // namespace pqcache
