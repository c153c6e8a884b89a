// The .pqcb container of codebook.h, built here by hand from codebook_format.md.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/coding.h"
#include "pqcache/base/file_io.h"
#include "pqcache/index/codebook.h"
#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

constexpr PqShape kSmall = {4, 2, 4};

CodebookSet SmallSet(bool rotated, int layers = 1, int kv_heads = 2, bool means = false) {
  CodebookSet set;
  set.model = FingerprintOf("model");
  set.rotation = rotated ? "query" : "none";
  set.report = R"({"samples":123})";
  set.layers = layers;
  set.kv_heads = kv_heads;
  for (int i = 0; i < layers * kv_heads; ++i) {
    const auto seed = static_cast<uint64_t>(i);
    HeadCodebook::Parts parts = RandomParts(kSmall, rotated, seed);
    if (means) {
      parts.position_mean = RandomPositionMean(kSmall.dim, 2, seed);
      parts.residual = 0.5f + static_cast<float>(i);
    }
    set.heads.push_back(HeadCodebook::Create(std::move(parts)).value());
  }
  return set;
}

std::string SavedBytes(const CodebookSet& set) {
  const TempDir dir;
  const Status saved = SaveCodebooks(set, dir.File("f.pqcb"));
  PQCACHE_CHECK(saved.ok(), saved.message().c_str());
  return *ReadFile(dir.File("f.pqcb"), 1 << 20);
}

std::string Fixed32(uint32_t v) {
  std::string out;
  PutFixed32(&out, v);
  return out;
}

std::string Fixed64(uint64_t v) {
  std::string out;
  PutFixed64(&out, v);
  return out;
}

std::string Sealed(const std::string& bytes) {
  return bytes + Fixed64(Checksum64(bytes.data(), bytes.size()));
}

// A file whose checksums are right, whatever it says.
std::string FileOf(const std::string& description, const std::string& blocks,
                   uint32_t version = 1) {
  return Sealed("PQCBOOK1" + Fixed32(version) + Fixed32(static_cast<uint32_t>(description.size())) +
                Fixed64(Checksum64(description.data(), description.size()))) +
         description + blocks;
}

std::string BlockOf(const std::vector<float>& numbers) {
  return Sealed(std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * 4));
}

std::string Describe(std::string_view layers, std::string_view kv_heads, std::string_view dim,
                     std::string_view subspaces, std::string_view bits,
                     std::string_view rotation = "\"none\"",
                     std::string_view model = "\"000102030405060708090a0b0c0d0e0f\"") {
  std::string out = "{\"model\":";
  out.append(model).append(",\"layers\":").append(layers).append(",\"kv_heads\":");
  out.append(kv_heads).append(",\"dim\":").append(dim).append(",\"subspaces\":");
  out.append(subspaces).append(",\"bits\":").append(bits).append(",\"rotation\":");
  return out.append(rotation).append("}");
}

std::string Nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

class CodebookFile : public ::testing::Test {
 protected:
  Result<std::shared_ptr<const CodebookSet>> Load(std::string_view bytes) {
    std::filesystem::remove(path_);  // truncating instead would make ext4 wait for the disk
    std::ofstream(path_, std::ios::binary) << bytes;
    return LoadCodebooks(path_);
  }
  // Refused, with the path and `piece` in the message.
  void ExpectRefused(std::string_view bytes, const std::string& piece) {
    const Status status = Load(bytes).status();
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status.message().find(path_ + ": "), 0u) << status.message();
    EXPECT_NE(status.message().find(piece), std::string::npos)
        << "message: " << status.message() << "\nexpected in it: " << piece;
  }

  TempDir dir_;
  std::string path_ = dir_.File("damaged.pqcb");
};

void ExpectSameSet(const CodebookSet& a, const CodebookSet& b) {
  EXPECT_EQ(a.model, b.model);
  EXPECT_EQ(a.rotation, b.rotation);
  EXPECT_EQ(a.report, b.report);
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.kv_heads, b.kv_heads);
  ASSERT_EQ(a.heads.size(), b.heads.size());
  for (size_t i = 0; i < a.heads.size(); ++i) {
    EXPECT_EQ(a.heads[i].shape(), b.heads[i].shape());
    EXPECT_TRUE(std::ranges::equal(a.heads[i].centroids(), b.heads[i].centroids()));
    EXPECT_TRUE(std::ranges::equal(a.heads[i].key_transform(), b.heads[i].key_transform()));
    EXPECT_TRUE(std::ranges::equal(a.heads[i].query_transform(), b.heads[i].query_transform()));
    const PositionMean &x = a.heads[i].position_mean(), &y = b.heads[i].position_mean();
    EXPECT_TRUE(std::ranges::equal(x.mean(), y.mean()));
    EXPECT_TRUE(std::ranges::equal(x.frequencies(), y.frequencies()));
    EXPECT_EQ(a.heads[i].residual(), b.heads[i].residual());
  }
}

TEST_F(CodebookFile, RoundTrips) {
  for (const bool rotated : {false, true}) {
    for (const bool means : {false, true}) {
      CodebookSet set = SmallSet(rotated, 3, 2, means);
      const auto loaded = Load(SavedBytes(set));
      ASSERT_OK(loaded);
      ExpectSameSet(**loaded, set);
      EXPECT_EQ(&(*loaded)->head(2, 1), &(*loaded)->heads[5]);
      EXPECT_EQ((*loaded)->shape(), kSmall);
      set.report.clear();
      ExpectSameSet(**Load(SavedBytes(set)), set);
    }
  }
}

// By hand: residual, mean, frequencies, centroids.
TEST_F(CodebookFile, ReadsPositionMeans) {
  std::vector<float> numbers = {9, 1, 2, 3, 4, 0.5f, 0.25f};
  numbers.resize(7 + 64, 7.0f);
  std::string description = Describe("1", "1", "4", "2", "4");
  description.insert(1, R"("position_frequencies":2,)");
  const auto set = Load(FileOf(description, BlockOf(numbers), 2));
  ASSERT_OK(set);
  const PositionMean& mean = (*set)->head(0, 0).position_mean();
  EXPECT_TRUE(std::ranges::equal(mean.mean(), std::vector<float>{1, 2, 3, 4}));
  EXPECT_TRUE(std::ranges::equal(mean.frequencies(), std::vector<float>{0.5f, 0.25f}));
  EXPECT_EQ((*set)->head(0, 0).residual(), 9.0f);
  EXPECT_EQ((*set)->head(0, 0).centroids()[0], 7.0f);
  for (const std::string bad : {"0", "3", "-1"}) {
    std::string other = Describe("1", "1", "4", "2", "4");
    other.insert(1, "\"position_frequencies\":" + bad + ",");
    ExpectRefused(FileOf(other, BlockOf(numbers), 2), "is " + bad + ", expected 1 to 2");
  }
}

// Whoever knows version 1 alone reads the files that need no more.
TEST_F(CodebookFile, VersionIsTheOldestThatWillDo) {
  EXPECT_EQ(SavedBytes(SmallSet(true))[8], 1);
  EXPECT_EQ(SavedBytes(SmallSet(true, 1, 2, true))[8], 2);
  CodebookSet residual = SmallSet(false, 1, 1);
  HeadCodebook::Parts parts = RandomParts(kSmall, false, 0);
  parts.residual = 1;
  residual.heads[0] = HeadCodebook::Create(std::move(parts)).value();
  EXPECT_EQ(SavedBytes(residual)[8], 2);
}

TEST(CodebooksFingerprint, TellsPositionMeansApart) {
  CodebookSet a = SmallSet(true, 1, 1), b = SmallSet(true, 1, 1, true);
  EXPECT_NE(CodebooksFingerprint(a), CodebooksFingerprint(b));
}

TEST_F(CodebookFile, SameSetGivesSameBytes) {
  EXPECT_EQ(SavedBytes(SmallSet(true)), SavedBytes(SmallSet(true)));
  EXPECT_EQ(*EncodeCodebooks(SmallSet(true)), SavedBytes(SmallSet(true)));
}

// The file was made from codebook_format.md by other means than SaveCodebooks.
TEST_F(CodebookFile, ReadsAndWritesTheGoldenFile) {
  const std::string path = std::string(PQCACHE_SOURCE_DIR) + "/tests/golden/codebook_v1.pqcb";
  const auto golden = LoadCodebooks(path);
  ASSERT_OK(golden);
  const CodebookSet& set = **golden;
  EXPECT_EQ(set.model.Hex(), "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf");
  EXPECT_EQ(set.rotation, "pca");
  EXPECT_EQ(set.report, R"({"samples":123,"note":"golden"})");
  EXPECT_EQ(set.layers, 1);
  EXPECT_EQ(set.kv_heads, 2);
  EXPECT_EQ(set.shape(), kSmall);
  for (int h = 0; h < 2; ++h) {
    const HeadCodebook& head = set.head(0, h);
    const float s = h == 0 ? 2.0f : 0.5f;
    const std::vector<float> a = {0, 1, 0, 0, 1, 0, 0, 0, 0, 0, s, 0, 0, 0, 0, s};
    const std::vector<float> b = {0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1 / s, 0, 0, 0, 0, 1 / s};
    EXPECT_EQ(std::vector<float>(head.key_transform().begin(), head.key_transform().end()), a);
    EXPECT_EQ(std::vector<float>(head.query_transform().begin(), head.query_transform().end()), b);
    for (int m = 0; m < 2; ++m) {
      for (int k = 0; k < 16; ++k) {
        const float first = static_cast<float>(h + 1) * (static_cast<float>(k) - 7.5f);
        EXPECT_EQ(CentroidOf(head, m, k)[0], first + static_cast<float>(m));
        EXPECT_EQ(CentroidOf(head, m, k)[1], -0.25f * first + static_cast<float>(m));
      }
    }
  }
  EXPECT_TRUE(SavedBytes(set) == *ReadFile(path, 1 << 20));
}

TEST_F(CodebookFile, RefusesEveryFlippedByte) {
  std::string bytes = SavedBytes(SmallSet(true, 1, 2, true));
  ASSERT_OK(Load(bytes));
  const size_t block = (1 + 4 + 2 + 2 * 16 + 16 * 4) * 4 + 8;
  for (size_t i = 0; i < bytes.size(); ++i) {
    // The last bytes belong to the two blocks, which errors name.
    const std::string piece = i + block >= bytes.size()       ? "block of layer 0 head 1"
                              : i + 2 * block >= bytes.size() ? "block of layer 0 head 0"
                                                              : "";
    const char good = bytes[i];
    for (const int flip : {1 << (i % 8), 0xff}) {
      bytes[i] = static_cast<char>(good ^ flip);
      ExpectRefused(bytes, piece);
      if (HasFailure()) FAIL() << "byte " << i << " flip " << flip;
    }
    bytes[i] = good;
  }
}

TEST_F(CodebookFile, RefusesEveryOtherLength) {
  const std::string good = SavedBytes(SmallSet(false));
  for (size_t size = 0; size < good.size(); ++size) {
    ExpectRefused(std::string_view(good).substr(0, size), "");
    if (HasFailure()) FAIL() << size << " bytes";
  }
  ExpectRefused(good + '\0', "has " + std::to_string(good.size() + 1) + " bytes, expected " +
                                 std::to_string(good.size()));
}

TEST_F(CodebookFile, RefusesOtherVersionsAndOtherFiles) {
  const std::vector<float> numbers(64, 1.0f);
  const std::string description = Describe("1", "1", "4", "2", "4");
  ASSERT_OK(Load(FileOf(description, BlockOf(numbers))));
  for (const uint32_t version : {0u, 3u, 0x01000000u}) {
    const auto loaded = Load(FileOf(description, BlockOf(numbers), version));
    ExpectError(loaded, StatusCode::kUnsupported,
                "has version " + std::to_string(version) + ", expected 1");
  }
  ExpectRefused("", "is not a codebook file");
  ExpectRefused("PQCBOOK2" + std::string(100, 'x'), "does not start with PQCBOOK1");
  ExpectError(LoadCodebooks(dir_.File("absent")), StatusCode::kNotFound, dir_.File("absent"));
  ExpectError(LoadCodebooks(dir_.path()), StatusCode::kInvalidArgument, "not a regular file");
}

TEST_F(CodebookFile, RefusesImpossibleDescriptions) {
  const std::string block = BlockOf(std::vector<float>(64, 1.0f));
  const struct {
    std::string description;
    const char* piece;
  } rows[] = {
      {Describe("0", "1", "4", "2", "4"), "layers is 0, expected 1 to 4096"},
      {Describe("1", "-1", "4", "2", "4"), "kv_heads is -1"},
      {Describe("1", "1", "4097", "2", "4"), "dim is 4097"},
      {Describe("1", "1", "4", "9223372036854775807", "4"), "subspaces is 9223372036854775807"},
      {Describe("1", "1", "4", "2", "5"), "5 bits, expected 4 or 8"},
      {Describe("1", "1", "4", "3", "8"), "does not divide the head size 4"},
      {Describe("1", "1", "4", "1", "4"), "expected an even M"},
      {Describe("1.5", "1", "4", "2", "4"), "\"layers\" is a number, expected an integer"},
      {Describe("1", "1", "null", "2", "4"), "\"dim\" is null"},
      {Describe("1", "1", "4", "2", "4", "\"spin\""), "rotation is 'spin'"},
      {Describe("1", "1", "4", "2", "4", "7"), "\"rotation\" is an integer"},
      {Describe("1", "1", "4", "2", "4", "\"none\"", "\"00\""), "32 hexadecimal digits"},
      {Describe("1", "1", "4", "2", "4", "\"none\"", "\"0001020304050607_8090a0b0c0d0e0f\""),
       "32 hexadecimal digits"},
      {"{}", "\"model\" is absent"},
      {"[]", "\"model\" is absent"},
      {"", "not valid JSON"},
      {"{\"model\":", "not valid JSON"},
      // Sizes that would not fit into memory are refused by the file's length.
      {Describe("4096", "4096", "4096", "2", "8", "\"pca\""), "bytes, expected 2322"},
      {Describe("1", "2", "4", "2", "4"), "bytes, expected"},
      {Describe("1", "1", "4", "2", "4", "\"pca\""), "bytes, expected"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.description);
    ExpectRefused(FileOf(row.description, block), row.piece);
  }
  // A description longer than the file.
  std::string header = "PQCBOOK1" + Fixed32(1) + Fixed32(0xffffffff) + Fixed64(0);
  ExpectRefused(Sealed(header) + "{}", "cut off inside its description");
}

TEST_F(CodebookFile, RefusesNumbersThatAreNotFinite) {
  std::vector<float> numbers(64, 1.0f);
  const std::string good = BlockOf(numbers);
  numbers[63] = std::nanf("");
  const std::string description = Describe("2", "2", "4", "2", "4");
  EXPECT_OK(Load(FileOf(description, good + good + good + good)));
  ExpectRefused(FileOf(description, good + good + BlockOf(numbers) + good),
                "block of layer 1 head 0: centroids has numbers that are not finite");
}

TEST_F(CodebookFile, SaveReportsWhatItCannotWrite) {
  ExpectError(SaveCodebooks(SmallSet(false), dir_.File("absent/f")), StatusCode::kNotFound,
              dir_.File("absent/f"));
  CodebookSet set = SmallSet(false);
  for (const std::string& report : {std::string("not JSON"), Nested(64)}) {
    set.report = report;
    EXPECT_FALSE(SaveCodebooks(set, path_).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(CodebookFile, EveryReportThatCanBeSavedCanBeLoaded) {
  CodebookSet set = SmallSet(false);
  set.report = Nested(63);
  const auto loaded = Load(SavedBytes(set));
  ASSERT_OK(loaded);
  EXPECT_EQ((*loaded)->report, set.report);
}

TEST(CodebookFileDeathTest, SaveNeedsAConsistentSet) {
  const TempDir dir;
  CodebookSet missing = SmallSet(false);
  missing.heads.pop_back();
  EXPECT_DEATH((void)SaveCodebooks(missing, dir.File("f")), "one codebook per layer and KV head");
  CodebookSet unrotated = SmallSet(false);
  unrotated.rotation = "pca";
  EXPECT_DEATH((void)SaveCodebooks(unrotated, dir.File("f")), "rotation");
  CodebookSet mixed = SmallSet(false);
  mixed.heads[1] = RandomCodebook({8, 2, 4}, false, 1);
  EXPECT_DEATH((void)SaveCodebooks(mixed, dir.File("f")), "shape");
}

}  // namespace
}  // namespace pqcache
