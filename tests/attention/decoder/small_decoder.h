#pragma once

// A small real checkpoint, and how its sessions keep their tokens: small enough that a few dozen
// tokens fill sinks, window and pages.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "attention/decoder/session.h"
#include "tests/support/status_matchers.h"

namespace pqcache::testing {

class SmallDecoderTest : public ::testing::Test {
 protected:
  explicit SmallDecoderTest(int64_t tokens) {
    for (int64_t t = 0; t < tokens; ++t) tokens_.push_back(t * 37 % 256);
  }
  void SetUp() override {
    auto decoder = attention::Decoder::Load(
        std::string(PQCACHE_SOURCE_DIR) + "/tests/fixtures/hf/llama_gqa_rope3_tied",
        attention::ComputeDType::kFloat32, &pool_);
    ASSERT_OK(decoder);
    decoder_ = std::move(*decoder);
    storage_.n_sink = 2;
    storage_.local_window = 8;
    storage_.page_tokens = 4;
    storage_.keep_keys = true;
  }

  static attention::CacheAttentionOptions Flat(int64_t tokens) {
    attention::CacheAttentionOptions options;
    options.policy = std::move(*CreatePolicy("flat"));
    options.budget.tokens = tokens;
    return options;
  }

  ThreadPool pool_{2};
  std::unique_ptr<attention::Decoder> decoder_;
  attention::SessionStorage storage_;
  std::vector<int64_t> tokens_;
};

}  // namespace pqcache::testing
