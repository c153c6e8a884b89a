// Loading whole model directories: the fixtures made by transformers, and the demo model.

#include "attention/model/model_spec.h"

#include <gtest/gtest.h>

#include <fstream>
#include <ostream>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::attention {
namespace {

using ::pqcache::testing::ExpectError;
using ::pqcache::testing::TempDir;

const std::string kRoot = PQCACHE_SOURCE_DIR;

struct Row {
  std::string dir;
  std::string family;
  int heads, kv_heads, head_dim;
  int64_t window;
  bool tied, qkv_bias, output_bias, mlp_bias, head_norms;
  RopeSpec::Kind rope;
  double theta;
  int rotary_dim;
  double eps;
};

std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.dir; }

constexpr auto kDefault = RopeSpec::Kind::kDefault;
const Row kRows[] = {
    {"llama_mha", "llama", 4, 4, 16, 0, false, false, false, false, false, kDefault, 1e4, 16, 1e-6},
    {"llama_gqa_rope3_tied", "llama", 8, 2, 16, 0, true, false, false, false, false,
     RopeSpec::Kind::kLlama3, 5e5, 16, 1e-6},
    {"mistral_window", "mistral", 4, 2, 16, 24, false, false, false, false, false, kDefault, 1e4,
     16, 1e-6},
    {"qwen2", "qwen2", 4, 2, 16, 0, false, true, false, false, false, kDefault, 1e4, 16, 1e-6},
    {"qwen3", "qwen3", 4, 2, 32, 0, false, false, false, false, true, kDefault, 1e4, 32, 1e-6},
    {"gpt_neox_parallel", "gpt_neox", 4, 4, 16, 0, false, true, true, true, false, kDefault, 1e4, 4,
     1e-5},
};

class Fixtures : public ::testing::TestWithParam<Row> {};

TEST_P(Fixtures, HaveTheirFields) {
  const Row& row = GetParam();
  const Result<ModelSpec> spec = LoadModelSpec(kRoot + "/tests/fixtures/hf/" + row.dir);
  ASSERT_OK(spec);
  EXPECT_EQ(spec->family, row.family);
  EXPECT_EQ(spec->layers, 3);
  EXPECT_EQ(spec->hidden, 64);
  EXPECT_EQ(spec->intermediate, 160);
  EXPECT_EQ(spec->vocab, 256);
  EXPECT_EQ(spec->max_positions, 512);
  EXPECT_EQ(spec->heads, row.heads);
  EXPECT_EQ(spec->kv_heads, row.kv_heads);
  EXPECT_EQ(spec->head_dim, row.head_dim);
  EXPECT_EQ(spec->sliding_window, row.window);
  EXPECT_EQ(spec->tied_head, row.tied);
  EXPECT_EQ(spec->qkv_bias, row.qkv_bias);
  EXPECT_EQ(spec->output_bias, row.output_bias);
  EXPECT_EQ(spec->mlp_bias, row.mlp_bias);
  EXPECT_EQ(!spec->names.query_norm.empty(), row.head_norms);
  EXPECT_EQ(!spec->names.key_norm.empty(), row.head_norms);
  EXPECT_EQ(spec->rope.kind, row.rope);
  EXPECT_EQ(spec->rope.theta, row.theta);
  EXPECT_EQ(spec->rope.rotary_dim, row.rotary_dim);
  EXPECT_EQ(spec->norm_eps, row.eps);
  const bool neox = row.family == "gpt_neox";
  EXPECT_EQ(spec->norm, neox ? NormKind::kLayer : NormKind::kRms);
  EXPECT_EQ(spec->activation, neox ? Activation::kGelu : Activation::kSilu);
  EXPECT_EQ(spec->parallel_residual, neox);
  EXPECT_EQ(spec->names.fused_qkv.empty(), !neox);
  EXPECT_EQ(spec->names.gate.empty(), neox);
  EXPECT_EQ(spec->bos_token, 0);
  EXPECT_EQ(spec->eos_tokens, std::vector<int64_t>{255});
  EXPECT_EQ(spec->checkpoint_dtype, "float32");
}

INSTANTIATE_TEST_SUITE_P(All, Fixtures, ::testing::ValuesIn(kRows),
                         [](const auto& test) { return test.param.dir; });

TEST(LoadModelSpec, ReadsTheDemoModel) {
  const Result<ModelSpec> spec = LoadModelSpec(kRoot + "/tools/demo/model");
  ASSERT_OK(spec);
  EXPECT_EQ(spec->family, "llama");
  EXPECT_EQ(spec->layers, 6);
  EXPECT_EQ(spec->hidden, 384);
  EXPECT_EQ(spec->intermediate, 1024);
  EXPECT_EQ(spec->heads, 8);
  EXPECT_EQ(spec->kv_heads, 4);
  EXPECT_EQ(spec->group(), 2);
  EXPECT_EQ(spec->head_dim, 64);
  EXPECT_EQ(spec->vocab, 4096);
  EXPECT_EQ(spec->max_positions, 16384);
  EXPECT_EQ(spec->rope.theta, 1e6);
  EXPECT_TRUE(spec->tied_head);
  EXPECT_EQ(spec->eos_tokens, std::vector<int64_t>{0});
  EXPECT_EQ(spec->checkpoint_dtype, "bfloat16");
}

class Directory : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_.File(name)) << text;
  }
  void WriteConfig() {
    std::ifstream in(kRoot + "/tests/fixtures/hf/llama_mha/config.json");
    std::ofstream(dir_.File("config.json")) << in.rdbuf();
  }
  TempDir dir_;
};

TEST_F(Directory, GenerationConfigIsOptional) {
  WriteConfig();
  const Result<ModelSpec> spec = LoadModelSpec(dir_.path());
  ASSERT_OK(spec);
  EXPECT_EQ(spec->eos_tokens, std::vector<int64_t>{255});
}

TEST_F(Directory, GenerationConfigReplacesEosTokens) {
  WriteConfig();
  Write("generation_config.json", R"({"eos_token_id": [3, 5], "bos_token_id": 9})");
  const Result<ModelSpec> spec = LoadModelSpec(dir_.path());
  ASSERT_OK(spec);
  EXPECT_EQ(spec->eos_tokens, (std::vector<int64_t>{3, 5}));
  EXPECT_EQ(spec->bos_token, 0);
  Write("generation_config.json", R"({"eos_token_id": null})");
  EXPECT_EQ(LoadModelSpec(dir_.path())->eos_tokens, std::vector<int64_t>{255});
}

TEST_F(Directory, ErrorsNameTheFile) {
  ExpectError(LoadModelSpec(dir_.path()), StatusCode::kNotFound, dir_.File("config.json"));
  Write("config.json", "{");
  ExpectError(LoadModelSpec(dir_.path()), StatusCode::kCorruption, dir_.File("config.json: not"));
  Write("config.json", "{}");
  ExpectError(LoadModelSpec(dir_.path()), StatusCode::kInvalidArgument,
              dir_.File("config.json: \"model_type\" is absent"));
  WriteConfig();
  Write("generation_config.json", R"({"eos_token_id": 256})");
  ExpectError(LoadModelSpec(dir_.path()), StatusCode::kInvalidArgument,
              dir_.File("generation_config.json: \"eos_token_id\" is 256, expected 0 to 255"));
  Write("generation_config.json", "[");
  ExpectError(LoadModelSpec(dir_.path()), StatusCode::kCorruption, "generation_config.json: not");
}

TEST(ModuleFor, PutsTheLayerIn) {
  EXPECT_EQ(ModuleFor("model.layers.{}.mlp.up_proj", 12), "model.layers.12.mlp.up_proj");
  EXPECT_EQ(ModuleFor("model.norm", 12), "model.norm");
  EXPECT_EQ(ModuleFor("", 0), "");
}

}  // namespace
}  // namespace pqcache::attention
