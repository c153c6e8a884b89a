#include "attention/model/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "pqcache/base/random.h"
#include "tests/attention/model/safetensors_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::attention {
namespace {

using ::pqcache::testing::ExpectError;
using ::pqcache::testing::TempDir;

const std::string kFixtures = std::string(PQCACHE_SOURCE_DIR) + "/tests/fixtures/hf/";

// One tensor of bytes under `name`.
std::string ByteTensor(const std::string& name, const std::string& data) {
  const std::string n = std::to_string(data.size());
  return SafetensorsBytes("{\"" + name + R"(": {"dtype": "U8", "shape": [)" + n +
                              R"(], "data_offsets": [0, )" + n + "]}}",
                          data);
}

class CheckpointTest : public ::testing::Test {
 protected:
  void Write(const std::string& name, const std::string& bytes) {
    WriteBytes(dir_.File(name), bytes);
  }
  void WriteTwoShards(const std::string& index) {
    Write("one.safetensors", ByteTensor("a", "AA"));
    Write("two.safetensors", ByteTensor("b", "BBB"));
    Write("model.safetensors.index.json", index);
  }
  TempDir dir_;
};

TEST_F(CheckpointTest, ReadsAFixtureFile) {
  const Result<Checkpoint> file = Checkpoint::Open(kFixtures + "llama_mha/reference.safetensors");
  ASSERT_OK(file);
  EXPECT_EQ(file->metadata().at("transformers"), "5.17.0");
  EXPECT_EQ(file->tensors().size(), 9u);
  const TensorInfo* keys = file->Find("keys.0");
  ASSERT_NE(keys, nullptr);
  EXPECT_EQ(keys->shape, (std::vector<int64_t>{1, 4, 64, 16}));
  EXPECT_EQ(keys->dtype, DType::kF32);
  EXPECT_EQ(keys->bytes, 4u * 64 * 16 * 4);
  const TensorInfo* ids = file->Find("input_ids");
  ASSERT_NE(ids, nullptr);
  std::vector<int64_t> tokens(64);
  ASSERT_OK(file->Read("input_ids", tokens.data(), ids->bytes));
  for (const int64_t token : tokens) EXPECT_TRUE(token >= 0 && token < 256) << token;
  ExpectError(file->ReadFloats("input_ids"), StatusCode::kUnsupported,
              "\"input_ids\" has dtype I64, expected F32");
}

TEST_F(CheckpointTest, ReadsAShardedFixture) {
  const Result<Checkpoint> model = Checkpoint::Open(kFixtures + "mistral_window");
  ASSERT_OK(model);
  EXPECT_EQ(model->tensors().size(), 30u);
  EXPECT_EQ(model->Find("model.embed_tokens.weight")->file, 0);
  EXPECT_EQ(model->Find("model.norm.weight")->file, 4);
  for (const auto& [name, info] : model->tensors()) {
    const Result<std::vector<float>> values = model->ReadFloats(name);
    ASSERT_OK(values);
    double sum = 0;
    for (const float v : *values) sum += std::abs(v);
    EXPECT_GT(sum, 0) << name;
    EXPECT_TRUE(std::isfinite(sum)) << name;
  }
}

TEST_F(CheckpointTest, ConvertsToFloat) {
  std::string data;
  PutFixed32(&data, std::bit_cast<uint32_t>(1.5f));
  for (const uint16_t half : {0x3fc0, 0xc000}) data += {char(half & 255), char(half >> 8)};
  for (const uint16_t half : {0x3e00, 0xc000}) data += {char(half & 255), char(half >> 8)};
  PutFixed64(&data, std::bit_cast<uint64_t>(-0.1));
  // A leading byte leaves every tensor unaligned.
  Write("x.safetensors", SafetensorsBytes(R"({
    "pad": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]},
    "f32": {"dtype": "F32", "shape": [], "data_offsets": [1, 5]},
    "bf16": {"dtype": "BF16", "shape": [2], "data_offsets": [5, 9]},
    "f16": {"dtype": "F16", "shape": [2, 1], "data_offsets": [9, 13]},
    "f64": {"dtype": "F64", "shape": [1], "data_offsets": [13, 21]},
    "none": {"dtype": "BF16", "shape": [0], "data_offsets": [21, 21]}})",
                                          "p" + data));
  const Result<Checkpoint> file = Checkpoint::Open(dir_.File("x.safetensors"));
  ASSERT_OK(file);
  EXPECT_EQ(*file->ReadFloats("f32"), std::vector<float>{1.5f});
  EXPECT_EQ(*file->ReadFloats("bf16"), (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(*file->ReadFloats("f16"), (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(*file->ReadFloats("f64"), std::vector<float>{-0.1f});
  EXPECT_TRUE(file->ReadFloats("none")->empty());

  char byte = 0;
  ExpectError(file->Read("pad", &byte, 1), StatusCode::kUnsupported,
              "tensor \"pad\" has dtype BOOL, expected F32");
  ExpectError(file->ReadFloats("pad"), StatusCode::kUnsupported, "has dtype BOOL");
  ExpectError(file->Read("f32", &byte, 1), StatusCode::kInvalidArgument,
              "\"f32\" was given room for 1 bytes, expected 4");
  ExpectError(file->Read("nope", &byte, 1), StatusCode::kNotFound, "\"nope\" is absent");
  ExpectError(file->ReadFloats("nope"), StatusCode::kNotFound, "\"nope\" is absent");
  EXPECT_EQ(file->Find("nope"), nullptr);
}

TEST_F(CheckpointTest, ErrorsNameThePath) {
  ExpectError(Checkpoint::Open(dir_.File("absent")), StatusCode::kNotFound, dir_.File("absent"));
  ExpectError(Checkpoint::Open(dir_.path()), StatusCode::kNotFound, dir_.File("model.safetensors"));
  Write("x.safetensors", "1234567");
  ExpectError(Checkpoint::Open(dir_.File("x.safetensors")), StatusCode::kCorruption,
              dir_.File("x.safetensors: has 7 bytes"));
  Write("x.safetensors", SafetensorsBytes("{}", "d"));
  ExpectError(Checkpoint::Open(dir_.File("x.safetensors")), StatusCode::kCorruption,
              dir_.File("x.safetensors: has 1 bytes of data, expected 0"));
  ASSERT_EQ(::mkfifo(dir_.File("pipe").c_str(), 0600), 0);
  ExpectError(Checkpoint::Open(dir_.File("pipe")), StatusCode::kInvalidArgument, "regular file");
}

TEST_F(CheckpointTest, PickledWeightsAreUnsupported) {
  Write("pytorch_model.bin", "PK");
  ExpectError(Checkpoint::Open(dir_.path()), StatusCode::kUnsupported,
              dir_.File("pytorch_model.bin: is a pickled checkpoint, expected safetensors"));
  Write("model.safetensors", ByteTensor("t", "x"));
  EXPECT_OK(Checkpoint::Open(dir_.path()));
}

TEST_F(CheckpointTest, FollowsSymbolicLinks) {
  std::filesystem::create_directory(dir_.File("blobs"));
  std::filesystem::create_directory(dir_.File("snapshot"));
  Write("blobs/0123", ByteTensor("t", "xyz"));
  std::filesystem::create_symlink("../blobs/0123", dir_.File("snapshot/model.safetensors"));
  const Result<Checkpoint> model = Checkpoint::Open(dir_.File("snapshot"));
  ASSERT_OK(model);
  std::string out(3, ' ');
  ASSERT_OK(model->Read("t", out.data(), 3));
  EXPECT_EQ(out, "xyz");
}

TEST_F(CheckpointTest, ShardsAreChecked) {
  WriteTwoShards(R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  const Result<Checkpoint> model = Checkpoint::Open(dir_.path());
  ASSERT_OK(model);
  std::string out(3, ' ');
  ASSERT_OK(model->Read("b", out.data(), 3));
  EXPECT_EQ(out, "BBB");

  WriteTwoShards(R"({"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}})");
  ExpectError(Checkpoint::Open(dir_.path()), StatusCode::kCorruption,
              dir_.File("two.safetensors: has no tensor \"c\""));
  WriteTwoShards(R"({"weight_map": {"a": "two.safetensors", "b": "one.safetensors"}})");
  ExpectError(Checkpoint::Open(dir_.path()), StatusCode::kCorruption, "has no tensor \"a\"");
  WriteTwoShards(R"({"weight_map": {"a": "one.safetensors", "b": "three.safetensors"}})");
  ExpectError(Checkpoint::Open(dir_.path()), StatusCode::kNotFound, dir_.File("three.safetensors"));
  WriteTwoShards(R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  Write("two.safetensors", ByteTensor("a", "BBB"));
  ExpectError(Checkpoint::Open(dir_.path()), StatusCode::kCorruption,
              "tensor \"a\" is also in " + dir_.File("one.safetensors"));
}

TEST_F(CheckpointTest, ShardNamesCannotLeaveTheDirectory) {
  std::filesystem::create_directory(dir_.File("model"));
  Write("outside.safetensors", ByteTensor("a", "AA"));
  for (const std::string& name :
       {std::string("../outside.safetensors"), dir_.File("outside.safetensors")}) {
    Write("model/model.safetensors.index.json", R"({"weight_map": {"a": ")" + name + "\"}}");
    ExpectError(Checkpoint::Open(dir_.File("model")), StatusCode::kCorruption,
                "model.safetensors.index.json: \"weight_map\" has \"" + name + "\"");
  }
}

TEST_F(CheckpointTest, AFileThatChangesItsSizeIsAnError) {
  const std::string path = dir_.File("x.safetensors");
  WriteBytes(path, ByteTensor("t", "xyz"));
  const Result<Checkpoint> file = Checkpoint::Open(path);
  ASSERT_OK(file);
  const uint64_t size = std::filesystem::file_size(path);
  std::string out(3, ' ');
  for (const uint64_t changed : {size - 1, size + 1, uint64_t{0}}) {
    std::filesystem::resize_file(path, changed);
    ExpectError(file->Read("t", out.data(), 3), StatusCode::kIoError,
                "has " + std::to_string(changed) + " bytes, expected the " + std::to_string(size));
  }
}

TEST_F(CheckpointTest, FingerprintDependsOnNamesShapesAndDataButNotOnShards) {
  const auto fingerprint = [this](const std::string& bytes) {
    Write("x.safetensors", bytes);
    return Checkpoint::Open(dir_.File("x.safetensors"))->ComputeFingerprint()->Hex();
  };
  const std::string base = fingerprint(ByteTensor("t", "xyz"));
  EXPECT_EQ(base, fingerprint(ByteTensor("t", "xyz")));
  EXPECT_NE(base, fingerprint(ByteTensor("u", "xyz")));
  EXPECT_NE(base, fingerprint(ByteTensor("t", "xyw")));
  const auto with = [](const std::string& dtype, const std::string& shape) {
    return SafetensorsBytes("{\"t\": {\"dtype\": \"" + dtype + "\", \"shape\": " + shape +
                                R"(, "data_offsets": [0, 3]}})",
                            "xyz");
  };
  EXPECT_EQ(base, fingerprint(with("U8", "[3]")));
  EXPECT_NE(base, fingerprint(with("U8", "[3, 1]")));
  EXPECT_NE(base, fingerprint(with("I8", "[3]")));

  // Only the first 64 KiB of a tensor count.
  std::string large(70000, 'x');
  const std::string before = fingerprint(ByteTensor("t", large));
  large[65536] = 'y';
  EXPECT_EQ(before, fingerprint(ByteTensor("t", large)));
  large[65535] = 'y';
  EXPECT_NE(before, fingerprint(ByteTensor("t", large)));

  WriteTwoShards(R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  const Result<Checkpoint> sharded = Checkpoint::Open(dir_.path());
  ASSERT_OK(sharded);
  EXPECT_EQ(sharded->ComputeFingerprint()->Hex(),
            fingerprint(SafetensorsBytes(
                R"({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                    "b": {"dtype": "U8", "shape": [3], "data_offsets": [2, 5]}})",
                "AABBB")));
}

TEST_F(CheckpointTest, DamagedFixtureNeverYieldsTensorsOutsideTheFile) {
  std::ifstream in(kFixtures + "mistral_window/model-00005-of-00005.safetensors", std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(in), {}};
  const uint64_t header = 8 + GetFixed64(good.data());
  Random random(3);
  for (int round = 0; round < 300; ++round) {
    std::string bytes = good;
    if (round % 3 == 0) {
      bytes.resize(random.Below(bytes.size()));
    } else {
      bytes[random.Below(header)] ^= static_cast<char>(1u << random.Below(8));
    }
    Write("x.safetensors", bytes);
    const Result<Checkpoint> file = Checkpoint::Open(dir_.File("x.safetensors"));
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), StatusCode::kCorruption) << file.status().message();
      continue;
    }
    for (const auto& [name, info] : file->tensors()) {
      std::string out(info.bytes, ' ');
      const Status read = file->Read(name, out.data(), out.size());
      EXPECT_TRUE(read.ok() || read.code() == StatusCode::kUnsupported) << read.message();
    }
  }
}

}  // namespace
}  // namespace pqcache::attention
