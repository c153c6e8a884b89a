// Configurations that are refused, and the dialects of config.json. The fields of whole
// configurations are in model_spec_test.cpp.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "attention/model/model_spec.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using ::pqcache::testing::ExpectError;

constexpr const char* kLlama = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
  "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 8,
  "vocab_size": 256, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "hidden_act": "silu"})";

constexpr const char* kNeox = R"({
  "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 64,
  "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 2,
  "vocab_size": 256, "max_position_embeddings": 512, "layer_norm_eps": 1e-5,
  "hidden_act": "gelu", "rotary_pct": 0.5, "rotary_emb_base": 25000, "rope_scaling": null})";

// `base` with the members of `changes`; a member that is "absent" stays null.
Json Changed(const char* base, const std::string& changes) {
  Json config = *Json::Parse(base);
  const Json patch = *Json::Parse(changes);
  for (const auto& [key, value] : patch.AsObject()) config.Set(key, value);
  return config;
}

Result<ModelSpec> Parse(const char* base, const std::string& changes) {
  return ParseModelConfig(Changed(base, changes));
}

TEST(Families, DefaultsOfAShortLlamaConfig) {
  const Result<ModelSpec> spec = Parse(kLlama, "{}");
  ASSERT_OK(spec);
  EXPECT_EQ(spec->kv_heads, 8);
  EXPECT_EQ(spec->head_dim, 8);
  EXPECT_EQ(spec->group(), 1);
  EXPECT_EQ(spec->rope.kind, RopeSpec::Kind::kDefault);
  EXPECT_EQ(spec->rope.theta, 10000.0);
  EXPECT_EQ(spec->rope.rotary_dim, 8);
  EXPECT_FALSE(spec->qkv_bias || spec->output_bias || spec->mlp_bias || spec->tied_head);
  EXPECT_EQ(spec->bos_token, -1);
  EXPECT_TRUE(spec->eos_tokens.empty());
  EXPECT_EQ(spec->checkpoint_dtype, "");
}

TEST(Families, LlamaBiases) {
  const Result<ModelSpec> spec = Parse(kLlama, R"({"attention_bias": true})");
  ASSERT_OK(spec);
  EXPECT_TRUE(spec->qkv_bias && spec->output_bias);
  EXPECT_FALSE(spec->mlp_bias);
  const Result<ModelSpec> mlp = Parse(kLlama, R"({"mlp_bias": true})");
  ASSERT_OK(mlp);
  EXPECT_TRUE(mlp->mlp_bias);
  EXPECT_FALSE(mlp->qkv_bias || mlp->output_bias);
}

TEST(Families, BothDialectsOfLlama3Rope) {
  const std::string parts = R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 8192)";
  const std::vector<std::string> dialects = {
      R"({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", )" + parts +
          R"(}, "torch_dtype": "bfloat16"})",
      R"({"rope_theta": 5e5, "rope_scaling": {"type": "llama3", )" + parts +
          R"(}, "torch_dtype": "bfloat16"})",
      R"({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", )" + parts +
          R"(}, "dtype": "bfloat16"})",
  };
  for (const std::string& dialect : dialects) {
    const Result<ModelSpec> spec = Parse(kLlama, dialect);
    ASSERT_OK(spec);
    EXPECT_EQ(spec->rope.kind, RopeSpec::Kind::kLlama3);
    EXPECT_EQ(spec->rope.theta, 500000.0);
    EXPECT_EQ(spec->rope.factor, 8.0);
    EXPECT_EQ(spec->rope.low_freq_factor, 1.0);
    EXPECT_EQ(spec->rope.high_freq_factor, 4.0);
    EXPECT_EQ(spec->rope.original_max_positions, 8192);
    EXPECT_EQ(spec->checkpoint_dtype, "bfloat16");
  }
}

TEST(Families, LinearRopeOfVersion4) {
  const Result<ModelSpec> spec =
      Parse(kLlama, R"({"rope_scaling": {"type": "linear", "factor": 2}})");
  ASSERT_OK(spec);
  EXPECT_EQ(spec->rope.kind, RopeSpec::Kind::kLinear);
  EXPECT_EQ(spec->rope.factor, 2.0);
  EXPECT_EQ(spec->rope.theta, 10000.0);
}

TEST(Families, RopeParametersWinOverTopLevelTheta) {
  const Result<ModelSpec> spec = Parse(
      kLlama, R"({"rope_theta": 7, "rope_parameters": {"rope_type": "default", "rope_theta": 9}})");
  ASSERT_OK(spec);
  EXPECT_EQ(spec->rope.theta, 9.0);
  const Result<ModelSpec> without =
      Parse(kLlama, R"({"rope_theta": 7, "rope_parameters": {"rope_type": "default"}})");
  ASSERT_OK(without);
  EXPECT_EQ(without->rope.theta, 7.0);
}

TEST(Families, GptNeoxOfVersion4) {
  const Result<ModelSpec> spec = Parse(kNeox, R"({"use_parallel_residual": false})");
  ASSERT_OK(spec);
  EXPECT_EQ(spec->rope.theta, 25000.0);
  EXPECT_EQ(spec->rope.rotary_dim, 16);
  EXPECT_FALSE(spec->parallel_residual);
  EXPECT_TRUE(spec->qkv_bias && spec->output_bias && spec->mlp_bias);
  const Result<ModelSpec> defaults =
      Parse(kNeox, R"({"rotary_pct": null, "rotary_emb_base": null, "attention_bias": false})");
  ASSERT_OK(defaults);
  EXPECT_TRUE(defaults->parallel_residual);
  EXPECT_EQ(defaults->rope.rotary_dim, 8);
  EXPECT_EQ(defaults->rope.theta, 10000.0);
  EXPECT_FALSE(defaults->qkv_bias || defaults->output_bias);
  EXPECT_TRUE(defaults->mlp_bias);
}

TEST(Families, Activations) {
  const std::vector<std::pair<std::string, Activation>> names = {
      {"silu", Activation::kSilu},         {"gelu", Activation::kGelu},
      {"gelu_new", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"relu", Activation::kRelu},         {"gelu_fast", Activation::kGeluTanh}};
  for (const auto& [name, activation] : names) {
    const Result<ModelSpec> spec = Parse(kNeox, R"({"hidden_act": ")" + name + "\"}");
    ASSERT_OK(spec);
    EXPECT_EQ(spec->activation, activation) << name;
  }
}

TEST(Families, EosTokens) {
  EXPECT_EQ(Parse(kLlama, R"({"eos_token_id": 0})")->eos_tokens, std::vector<int64_t>{0});
  EXPECT_EQ(Parse(kLlama, R"({"eos_token_id": [7, 255]})")->eos_tokens,
            (std::vector<int64_t>{7, 255}));
  EXPECT_TRUE(Parse(kLlama, R"({"eos_token_id": []})")->eos_tokens.empty());
}

TEST(Families, MistralWindow) {
  const std::string mistral = R"("model_type": "mistral", "architectures": ["MistralForCausalLM"])";
  EXPECT_EQ(Parse(kLlama, "{" + mistral + "}")->sliding_window, 4096);
  EXPECT_EQ(Parse(kLlama, "{" + mistral + R"(, "sliding_window": null})")->sliding_window, 0);
  EXPECT_EQ(Parse(kLlama, "{" + mistral + R"(, "sliding_window": 24})")->sliding_window, 24);
  ExpectError(Parse(kLlama, "{" + mistral + R"(, "sliding_window": 0})"),
              StatusCode::kInvalidArgument, "\"sliding_window\" is 0, expected 1 to 67108864");
}

TEST(Families, QwenWindowIsForAllLayersOrNone) {
  const auto parse = [](const std::string& changes) {
    return Parse(kLlama, R"({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"],
                             "sliding_window": )" +
                             changes + "}");
  };
  EXPECT_EQ(parse("32")->sliding_window, 0);
  EXPECT_EQ(parse(R"(32, "use_sliding_window": false)")->sliding_window, 0);
  EXPECT_EQ(parse(R"(32, "use_sliding_window": true)")->sliding_window, 0);
  const std::string use = R"(, "use_sliding_window": true, "max_window_layers": )";
  EXPECT_EQ(parse("32" + use + "3")->sliding_window, 0);
  EXPECT_EQ(parse("32" + use + "0")->sliding_window, 32);
  ExpectError(parse("32" + use + "2"), StatusCode::kUnsupported,
              "\"max_window_layers\" is 2 of 3 layers, expected a sliding window in all");
  ExpectError(parse("null" + use + "0"), StatusCode::kInvalidArgument,
              "\"sliding_window\" is null");
}

TEST(Families, LimitsAtTheLimit) {
  EXPECT_OK(Parse(kLlama, R"({"num_hidden_layers": 1024, "vocab_size": 2097152,
                              "max_position_embeddings": 67108864, "hidden_size": 1048576,
                              "intermediate_size": 1048576, "head_dim": 512})"));
  EXPECT_OK(Parse(kLlama, R"({"num_attention_heads": 1024, "num_key_value_heads": 1024,
                              "head_dim": 8})"));
}

struct Refused {
  const char* base;
  const char* changes;
  StatusCode code;
  const char* message;
};

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;
constexpr StatusCode kUnsupported = StatusCode::kUnsupported;

const Refused kRefused[] = {
    {kLlama, R"({"model_type": null})", kInvalid, "\"model_type\" is null, expected a string"},
    {kLlama, R"({"model_type": "mamba"})", kUnsupported,
     "\"mamba\", expected one of llama, mistral, qwen2, qwen3, gpt_neox"},
    {kLlama, R"({"architectures": ["LlamaModel"]})", kUnsupported,
     "[\"LlamaModel\"], expected [\"LlamaForCausalLM\"]"},
    {kLlama, R"({"architectures": ["LlamaForCausalLM", "X"]})", kUnsupported, "expected [\"Llama"},
    {kLlama, R"({"architectures": "LlamaForCausalLM"})", kUnsupported, "expected [\"Llama"},
    {kLlama, R"({"quantization_config": {"quant_method": "gptq"}})", kUnsupported,
     "\"quantization_config\" is present (quant_method \"gptq\")"},
    {kLlama, R"({"quantization_config": {}})", kUnsupported, "quant_method absent"},
    // Sizes.
    {kLlama, R"({"hidden_size": null})", kInvalid, "\"hidden_size\" is null, expected an integer"},
    {kLlama, R"({"hidden_size": "64"})", kInvalid, "\"hidden_size\" is a string"},
    {kLlama, R"({"hidden_size": 64.0})", kInvalid, "\"hidden_size\" is a number"},
    {kLlama, R"({"hidden_size": 1048577})", kInvalid, "1048577, expected 1 to 1048576"},
    {kLlama, R"({"hidden_size": 68})", kInvalid, "\"hidden_size\" is 68, expected a multiple"},
    {kLlama, R"({"intermediate_size": 0})", kInvalid, "\"intermediate_size\" is 0, expected 1"},
    {kLlama, R"({"intermediate_size": 1048577})", kInvalid, "\"intermediate_size\" is 1048577"},
    {kLlama, R"({"num_hidden_layers": 0})", kInvalid, "\"num_hidden_layers\" is 0"},
    {kLlama, R"({"num_hidden_layers": 1025})", kInvalid, "1025, expected 1 to 1024"},
    {kLlama, R"({"num_hidden_layers": 9223372036854775807})", kInvalid, "expected 1 to 1024"},
    {kLlama, R"({"num_hidden_layers": 9223372036854775808})", kInvalid, "expected an integer"},
    {kLlama, R"({"num_hidden_layers": -9223372036854775808})", kInvalid, "expected 1 to 1024"},
    {kLlama, R"({"num_attention_heads": 0})", kInvalid, "\"num_attention_heads\" is 0"},
    {kLlama, R"({"num_attention_heads": 1025})", kInvalid, "1025, expected 1 to 1024"},
    {kLlama, R"({"num_attention_heads": 4294967304})", kInvalid, "4294967304, expected 1 to 1024"},
    {kLlama, R"({"num_key_value_heads": 3})", kInvalid, "is 3, expected a divisor of"},
    {kLlama, R"({"num_key_value_heads": 16})", kInvalid, "is 16, expected a divisor of"},
    {kLlama, R"({"num_key_value_heads": 0})", kInvalid, "\"num_key_value_heads\" is 0"},
    {kLlama, R"({"num_key_value_heads": 4294967298})", kInvalid, "expected 1 to 1024"},
    {kLlama, R"({"head_dim": 6})", kInvalid, "\"head_dim\" is 6, expected an even number in 8 to"},
    {kLlama, R"({"head_dim": 9})", kInvalid, "\"head_dim\" is 9"},
    {kLlama, R"({"head_dim": 514})", kInvalid, "\"head_dim\" is 514"},
    {kLlama, R"({"head_dim": 4294967312})", kInvalid, "\"head_dim\" is 4294967312"},
    {kLlama, R"({"hidden_size": 32})", kInvalid, "\"num_attention_heads\" is 4, expected an even"},
    {kLlama, R"({"vocab_size": 2097153})", kInvalid, "2097153, expected 1 to 2097152"},
    {kLlama, R"({"max_position_embeddings": 67108865})", kInvalid, "expected 1 to 67108864"},
    {kLlama, R"({"rms_norm_eps": null})", kInvalid, "\"rms_norm_eps\" is null, expected a number"},
    {kLlama, R"({"rms_norm_eps": 0})", kInvalid, "expected a number above 0"},
    {kLlama, R"({"rms_norm_eps": 1})", kInvalid, "below 1"},
    // Behaviour.
    {kLlama, R"({"hidden_act": "quick_gelu"})", kUnsupported,
     "\"quick_gelu\", expected one of silu"},
    {kLlama, R"({"attention_bias": 1})", kInvalid, "\"attention_bias\" is an integer"},
    {kLlama, R"({"tie_word_embeddings": "yes"})", kInvalid, "\"tie_word_embeddings\" is a string"},
    {kLlama, R"({"layer_types": ["full_attention"]})", kInvalid,
     "an array of 1, expected an array"},
    {kLlama, R"({"layer_types": "full_attention"})", kInvalid, "a string, expected an array of 3"},
    {kLlama, R"({"layer_types": ["full_attention", "sliding_attention", "full_attention"]})",
     kUnsupported, "\"sliding_attention\" for layer 1, expected \"full_attention\""},
    {kLlama, R"({"layer_types": ["full_attention", "full_attention", 3]})", kUnsupported,
     "an integer for layer 2"},
    {kLlama, R"({"torch_dtype": "float8_e4m3fn"})", kUnsupported,
     "\"torch_dtype\" is \"float8_e4m3fn\", expected float32, bfloat16 or float16"},
    {kLlama, R"({"dtype": "int8"})", kUnsupported, "\"dtype\" is \"int8\""},
    {kLlama, R"({"eos_token_id": 256})", kInvalid, "\"eos_token_id\" is 256, expected 0 to 255"},
    {kLlama, R"({"eos_token_id": [0, -1]})", kInvalid, "\"eos_token_id\" is -1"},
    {kLlama, R"({"eos_token_id": ["</s>"]})", kInvalid, "\"eos_token_id\" is a string"},
    {kLlama, R"({"bos_token_id": 256})", kInvalid, "\"bos_token_id\" is 256"},
    // Rotation.
    {kLlama, R"({"rope_theta": 0.5})", kInvalid, "\"rope_theta\" is 0.5"},
    {kLlama, R"({"rope_theta": "1e4"})", kInvalid, "\"rope_theta\" is a string"},
    {kLlama, R"({"rope_scaling": 2})", kInvalid, "\"rope_scaling\" is an integer, expected an obj"},
    {kLlama, R"({"rope_scaling": {"type": "dynamic", "factor": 2}})", kUnsupported,
     "rope type is \"dynamic\", expected one of default, linear, llama3"},
    {kLlama, R"({"rope_scaling": {"rope_type": "yarn", "factor": 2}})", kUnsupported, "\"yarn\""},
    {kLlama, R"({"rope_parameters": {"rope_type": "longrope"}})", kUnsupported, "\"longrope\""},
    {kLlama, R"({"rope_scaling": {"type": "linear"}})", kInvalid, "\"factor\" is absent"},
    {kLlama, R"({"rope_scaling": {"type": "linear", "factor": 0.9}})", kInvalid,
     "\"factor\" is 0.9"},
    {kLlama, R"({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {}})",
     kInvalid, "both present"},
    {kLlama,
     R"({"rope_parameters": {"full_attention": {"rope_type": "default"},
         "sliding_attention": {"rope_type": "default"}}})",
     kUnsupported, "\"full_attention\" (settings per layer type)"},
    {kLlama,
     R"({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4,
         "high_freq_factor": 4, "original_max_position_embeddings": 64}})",
     kInvalid, "expected 0 < low < high"},
    {kLlama,
     R"({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1,
         "high_freq_factor": 4}})",
     kInvalid, "\"original_max_position_embeddings\" is absent"},
    {kLlama,
     R"({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1,
         "high_freq_factor": 4, "original_max_position_embeddings": 67108865}})",
     kInvalid, "67108865, expected 1 to 67108864"},
    {kLlama, R"({"rope_parameters": {"partial_rotary_factor": 1.5}})", kInvalid, "at most 1"},
    {kNeox, R"({"rotary_pct": 0})", kInvalid, "expected above 0"},
    {kNeox, R"({"rotary_pct": 0.1})", kInvalid, "has 3 of 32 channels, expected an even number"},
    {kNeox, R"({"rotary_pct": 0.01})", kInvalid, "has 0 of 32 channels"},
    {kNeox, R"({"num_key_value_heads": 1})", kUnsupported, "is 1, expected 2"},
    {kNeox, R"({"head_dim": 16})", kUnsupported, "\"head_dim\" is 16 for 2 heads"},
    {kNeox, R"({"layer_norm_eps": null})", kInvalid, "\"layer_norm_eps\" is null"},
    {kNeox, R"({"use_parallel_residual": 1})", kInvalid, "\"use_parallel_residual\" is an integer"},
    {kLlama, R"({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]})", kInvalid,
     "\"head_dim\" is absent"},
};

TEST(Families, RefusesByName) {
  for (const Refused& c : kRefused) {
    SCOPED_TRACE(c.changes);
    ExpectError(Parse(c.base, c.changes), c.code, c.message);
  }
}

TEST(Families, RefusesWhatIsNoObject) {
  ExpectError(ParseModelConfig(Json(3)), kInvalid, "is an integer, expected an object");
}

}  // namespace
}  // namespace pqcache::attention
