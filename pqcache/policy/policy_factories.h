#pragma once

// What the files of this folder give to the list in policies.cpp; not for use elsewhere.

#include <memory>

#include "pqcache/policy/selection_policy.h"

namespace pqcache {

Result<std::unique_ptr<SelectionPolicy>> CreatePqPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateFlatPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateExactPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateRecentPolicy(const SpecString& spec);

}  // namespace pqcache
