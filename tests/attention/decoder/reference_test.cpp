// Checkpoints of every family against what transformers computed: logits, keys, values and greedy
// tokens, in float32.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "attention/decoder/session.h"
#include "attention/decoder/token_sampler.h"
#include "attention/model/checkpoint.h"
#include "storage/stores.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

struct Case {
  const char* name;
  const char* model;
  const char* reference;
};

const Case kCases[] = {
    {"llama_mha", "tests/fixtures/hf/llama_mha", "reference.safetensors"},
    {"llama_gqa_rope3_tied", "tests/fixtures/hf/llama_gqa_rope3_tied", "reference.safetensors"},
    {"mistral_window", "tests/fixtures/hf/mistral_window", "reference.safetensors"},
    {"qwen2", "tests/fixtures/hf/qwen2", "reference.safetensors"},
    {"qwen3", "tests/fixtures/hf/qwen3", "reference.safetensors"},
    {"gpt_neox_parallel", "tests/fixtures/hf/gpt_neox_parallel", "reference.safetensors"},
    {"demo_12m", "tools/demo/model", "reference/reference.safetensors"},
};

// Largest difference, relative to the range of the expected numbers.
double RelativeDeviation(const std::vector<float>& found, const std::vector<float>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  const auto [low, high] = std::minmax_element(expected.begin(), expected.end());
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(double{found[i]} - expected[i]));
  }
  return largest / (double{*high} - *low);
}

class ReferenceTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const std::string dir = std::string(PQCACHE_SOURCE_DIR) + "/" + GetParam().model;
    auto decoder = Decoder::Load(dir, ComputeDType::kFloat32, &pool_);
    ASSERT_OK(decoder);
    decoder_ = std::move(*decoder);
    auto reference = Checkpoint::Open(dir + "/" + GetParam().reference);
    ASSERT_OK(reference);
    reference_ = std::make_unique<Checkpoint>(std::move(*reference));
    store_ = std::move(*storage::OpenPageStore("memory"));
    input_ = Integers("input_ids");
  }

  std::vector<int64_t> Integers(const std::string& name) {
    const TensorInfo* info = reference_->Find(name);
    if (info == nullptr) return {};
    std::vector<int64_t> values(info->bytes / 8);
    EXPECT_OK(reference_->Read(name, values.data(), info->bytes));
    return values;
  }

  std::unique_ptr<Session> StartSession(int local_window = 7) {
    SessionStorage storage;
    storage.store = store_.get();
    storage.n_sink = 3;
    storage.local_window = local_window;
    storage.page_tokens = 5;
    auto session = Session::Create(decoder_.get(), storage, ExactAttention());
    EXPECT_OK(session);
    return std::move(*session);
  }

  ThreadPool pool_{2};
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<Checkpoint> reference_;
  std::unique_ptr<PageStore> store_;
  std::vector<int64_t> input_;
};

TEST_P(ReferenceTest, PrefillLogitsKeysAndValues) {
  const auto session = StartSession();
  std::vector<float> logits;
  ASSERT_OK(session->Prefill(input_, static_cast<int64_t>(input_.size()), &logits));
  auto expected = reference_->ReadFloats("logits");
  ASSERT_OK(expected);
  EXPECT_LT(RelativeDeviation(logits, *expected), 1e-4);

  const ModelSpec& spec = decoder_->spec();
  for (int layer = 0; layer < spec.layers; ++layer) {
    for (const bool is_key : {true, false}) {
      const std::string name = (is_key ? "keys." : "values.") + std::to_string(layer);
      auto rows = reference_->ReadFloats(name);  // [1, Hkv, T, D]; a window keeps its last T
      ASSERT_OK(rows);
      const int64_t t = reference_->Find(name)->shape[2];
      const int64_t end = static_cast<int64_t>(input_.size());
      std::vector<float> found;
      for (int h = 0; h < spec.kv_heads; ++h) {
        std::vector<float> keys(static_cast<size_t>(t * spec.head_dim)), values(keys.size());
        ASSERT_OK(session->cache().ReadRows(layer, h, end - t, end, keys.data(), values.data()));
        const auto& chosen = is_key ? keys : values;
        found.insert(found.end(), chosen.begin(), chosen.end());
      }
      EXPECT_LT(RelativeDeviation(found, *rows), 1e-4) << name;
    }
  }
}

TEST_P(ReferenceTest, DecodeEqualsPrefill) {
  auto expected = reference_->ReadFloats("logits");
  ASSERT_OK(expected);
  const auto session = StartSession();
  std::vector<float> logits, all;
  const std::span<const int64_t> input(input_);
  ASSERT_OK(session->Prefill(input.first(1), 1, &all));
  for (int64_t token : input.subspan(1)) {
    ASSERT_OK(session->Step(token, &logits));
    all.insert(all.end(), logits.begin(), logits.end());
  }
  EXPECT_LT(RelativeDeviation(all, *expected), 1e-4);
}

TEST_P(ReferenceTest, GreedyTokens) {
  const std::vector<int64_t> expected = Integers("greedy_from_32");
  if (expected.empty()) GTEST_SKIP() << "the reference of " << GetParam().name << " has none";
  const auto session = StartSession();
  std::vector<int64_t> tokens(input_.begin(), input_.begin() + 32);
  std::vector<float> logits;
  ASSERT_OK(session->Prefill(tokens, 1, &logits));
  while (tokens.size() < expected.size()) {
    tokens.push_back(ArgMax(logits));
    ASSERT_OK(session->Step(tokens.back(), &logits));
  }
  EXPECT_EQ(tokens, expected);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, ReferenceTest, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace pqcache::attention
