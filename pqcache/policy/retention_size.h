#pragma once

// How many tokens a policy that drops tokens keeps.

#include <algorithm>
#include <cstdint>
#include <string>

#include "pqcache/base/spec_string.h"
#include "pqcache/policy/token_retention.h"

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

}  // namespace pqcache
