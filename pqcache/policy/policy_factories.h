#pragma once

// What the files of this folder give to the list in policies.cpp; not for use elsewhere.

#include <memory>

#include "pqcache/policy/selection_policy.h"

namespace pqcache {

Result<std::unique_ptr<SelectionPolicy>> CreatePqPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateFlatPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateExactPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateQuestPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateInfLlmPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateBlocksPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateMagicPigPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateStreamingPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateRecentPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateH2oPolicy(const SpecString& spec);
Result<std::unique_ptr<SelectionPolicy>> CreateSnapKvPolicy(const SpecString& spec);

}  // namespace pqcache
