#include "attention/model/weight_check.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "tests/attention/model/safetensors_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::attention {
namespace {

using ::pqcache::testing::ExpectError;
using ::pqcache::testing::TempDir;

const std::string kRoot = PQCACHE_SOURCE_DIR;
const std::string kFixtures = kRoot + "/tests/fixtures/hf/";

TEST(WeightCheck, FixturesFit) {
  for (const std::string dir :
       {"/tests/fixtures/hf/llama_mha", "/tests/fixtures/hf/llama_gqa_rope3_tied",
        "/tests/fixtures/hf/mistral_window", "/tests/fixtures/hf/qwen2", "/tests/fixtures/hf/qwen3",
        "/tests/fixtures/hf/gpt_neox_parallel", "/tools/demo/model"}) {
    SCOPED_TRACE(dir);
    const Result<ModelSpec> spec = LoadModelSpec(kRoot + dir);
    ASSERT_OK(spec);
    const Result<Checkpoint> checkpoint = Checkpoint::Open(kRoot + dir);
    ASSERT_OK(checkpoint);
    EXPECT_OK(CheckWeights(*spec, *checkpoint));
  }
}

class Altered : public ::testing::Test {
 protected:
  // The specification of one fixture with the weights of it, or of another.
  void Load(const std::string& config, const std::string& weights) {
    spec_ = *LoadModelSpec(kFixtures + config);
    checkpoint_.emplace(*Checkpoint::Open(kFixtures + weights));
  }
  Status Check() { return CheckWeights(spec_, *checkpoint_); }
  void ExpectFault(const std::string& piece) {
    ExpectError(Check(), StatusCode::kInvalidArgument, piece);
  }
  ModelSpec spec_;
  std::optional<Checkpoint> checkpoint_;
};

TEST_F(Altered, AllFaultsAreInOneMessage) {
  Load("llama_mha", "llama_mha");
  spec_.kv_heads = 2;
  spec_.qkv_bias = true;
  spec_.vocab = 300;
  // 2 vocabularies; per layer 2 shapes of keys and values and 3 biases.
  ExpectFault("(llama) differ in 17 places:");
  ExpectFault("lm_head.weight has shape [256, 64], expected [300, 64]");
  ExpectFault("model.embed_tokens.weight has shape [256, 64], expected [300, 64]");
  ExpectFault("model.layers.0.self_attn.k_proj.weight has shape [64, 64], expected [32, 64]");
  ExpectFault("model.layers.2.self_attn.v_proj.weight has shape [64, 64], expected [32, 64]");
  ExpectFault("model.layers.1.self_attn.k_proj.bias is missing, expected [32]");
  ExpectFault("model.layers.1.self_attn.q_proj.bias is missing, expected [64]");
}

TEST_F(Altered, MoreOrFewerLayers) {
  Load("qwen3", "qwen3");
  spec_.layers = 2;
  ExpectFault("differ in 11 places:");
  ExpectFault("model.layers.2.self_attn.q_norm.weight [32] is unknown");
  spec_.layers = 4;
  ExpectFault("differ in 11 places:");
  ExpectFault("model.layers.3.self_attn.q_norm.weight is missing, expected [32]");
}

TEST_F(Altered, ATiedHeadMayBeAbsent) {
  Load("llama_gqa_rope3_tied", "llama_gqa_rope3_tied");
  EXPECT_OK(Check());
  spec_.tied_head = false;
  ExpectFault("differ in 1 place:\n  lm_head.weight is missing, expected [256, 64]");
  Load("llama_mha", "llama_mha");
  spec_.tied_head = true;
  EXPECT_OK(Check());
}

TEST_F(Altered, BiasesThatTheSpecLacksAreUnknown) {
  Load("qwen2", "qwen2");
  spec_.qkv_bias = false;
  ExpectFault("differ in 9 places:");
  ExpectFault("model.layers.0.self_attn.k_proj.bias [32] is unknown, expected no such tensor");
}

TEST_F(Altered, FusedProjectionsAndLayerNorms) {
  Load("gpt_neox_parallel", "gpt_neox_parallel");
  spec_.head_dim = 32;
  ExpectFault("attention.query_key_value.weight has shape [192, 64], expected [384, 64]");
  ExpectFault("attention.query_key_value.bias has shape [192], expected [384]");
  ExpectFault("attention.dense.weight has shape [64, 64], expected [64, 128]");
  spec_.head_dim = 16;
  spec_.norm = NormKind::kRms;
  ExpectFault("gpt_neox.final_layer_norm.bias [64] is unknown");
}

TEST_F(Altered, WeightsOfAnotherFamily) {
  Load("qwen2", "gpt_neox_parallel");
  ExpectFault("(qwen2) differ in");
  ExpectFault("embed_out.weight [256, 64] is unknown");
  ExpectFault("model.norm.weight is missing, expected [64]");
}

// A model without layers, so that the few tensors below are all of it.
TEST(WeightCheck, BuffersAreIgnoredAndDtypesChecked) {
  ModelSpec spec;
  spec.family = "tiny";
  spec.vocab = 2;
  spec.hidden = 1;
  spec.tied_head = true;
  spec.names.embedding = "embed";
  spec.names.final_norm = "norm";
  spec.names.head = "head";
  const TempDir dir;
  const std::string norm =
      R"("norm.weight": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]})";
  const auto check = [&](const std::string& others, size_t bytes) {
    WriteBytes(dir.File("model.safetensors"),
               SafetensorsBytes("{" + norm + ", " + others + "}", std::string(2 + bytes, '\0')));
    return CheckWeights(spec, *Checkpoint::Open(dir.path()));
  };
  const auto tensor = [](const std::string& name, const std::string& dtype, const char* shape,
                         int begin, int end) {
    return "\"" + name + R"(": {"dtype": ")" + dtype + R"(", "shape": )" + shape +
           R"(, "data_offsets": [)" + std::to_string(begin) + ", " + std::to_string(end) + "]}";
  };
  const std::string embed = tensor("embed.weight", "BF16", "[2, 1]", 2, 6);
  EXPECT_OK(check(embed, 4));
  for (const char* buffer :
       {"layers.0.self_attn.rotary_emb.inv_freq", "gpt_neox.layers.0.attention.bias",
        "gpt_neox.layers.0.attention.masked_bias"}) {
    EXPECT_OK(check(embed + ", " + tensor(buffer, "BOOL", "[1]", 6, 7), 5));
  }
  ExpectError(check(embed + ", " + tensor("head.bias", "F32", "[]", 6, 10), 8),
              StatusCode::kInvalidArgument, "head.bias [] is unknown");
  for (const std::string dtype : {"F8_E4M3", "U8"}) {
    ExpectError(check(tensor("embed.weight", dtype, "[2, 1]", 2, 4), 2),
                StatusCode::kInvalidArgument,
                "embed.weight has dtype " + dtype + ", expected F32, BF16, F16 or F64");
  }
  ExpectError(check(embed + ", " + tensor("head.weight", "F16", "[1, 2]", 6, 10), 8),
              StatusCode::kInvalidArgument, "head.weight has shape [1, 2], expected [2, 1]");
}

}  // namespace
}  // namespace pqcache::attention
