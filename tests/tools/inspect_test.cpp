#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "pqcache/base/file_io.h"
#include "pqcache/base/random.h"
#include "pqcache/index/codebook_file_info.h"
#include "storage/stores.h"
#include "tests/storage/page_samples.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/tools/fake_flags.h"
#include "tools/commands.h"

namespace pqcache::tools {
namespace {

using namespace pqcache::testing;
namespace fs = std::filesystem;

constexpr int kLayers = 2, kKvHeads = 3, kDim = 8;
const std::string kGoldenPage = std::string(PQCACHE_SOURCE_DIR) + "/tests/golden/page_v1.bin";

CodebookSet SampleSet() {
  CodebookSet set;
  set.model = FingerprintOf("a model");
  set.rotation = "pca";
  set.report =
      R"({"tokens":5,"judged":{"tokens":77,"mean":{"recall_at_100":0.9,"mass_at_2pct":0.8,)"
      R"("relative_mse":0.1},"worst":{"recall_at_100":0.5,"mass_at_2pct":0.4,)"
      R"("relative_mse":0.2}}})";
  set.layers = kLayers;
  set.kv_heads = kKvHeads;
  Random random(1);
  for (int i = 0; i < kLayers * kKvHeads; ++i) {
    HeadCodebook::Parts parts;
    parts.shape = {.dim = kDim, .subspaces = 4, .bits = 4};
    for (int j = 0; j < 16 * kDim; ++j) parts.centroids.push_back(random.Normal());
    for (int j = 0; j < kDim * kDim; ++j) {
      parts.key_transform.push_back(j % (kDim + 1) == 0 ? 1.0f : 0.0f);
    }
    parts.query_transform = parts.key_transform;
    Result<HeadCodebook> head = HeadCodebook::Create(std::move(parts));
    PQCACHE_CHECK(head.ok(), head.status().message().c_str());
    set.heads.push_back(*std::move(head));
  }
  return set;
}

Result<Report> Inspect(const std::vector<std::string>& paths) {
  const auto command = CreateInspectCommand();
  FakeFlags flags;
  command->Declare(&flags);
  flags.Set("path", paths);
  PQCACHE_RETURN_IF_ERROR(command->Prepare());
  return command->Run(true);
}

const Json& At(const Json& json, const std::string& key) {
  const Json* found = json.Find(key);
  PQCACHE_CHECK(found != nullptr, key.c_str());
  return *found;
}

// The only file of a report.
Json OnlyFile(const Result<Report>& report) {
  PQCACHE_CHECK(report.ok(), report.status().message().c_str());
  EXPECT_EQ(At(report->json, "ok").AsBool(), report->passed);
  const auto& files = At(report->json, "files").AsArray();
  PQCACHE_CHECK(files.size() == 1, "one file");
  EXPECT_EQ(At(files[0], "damaged").AsArray().empty(), report->passed);
  return files[0];
}

class InspectCodebooksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = dir_.File("any.name");
    ASSERT_OK(SaveCodebooks(SampleSet(), path_));
    const Result<std::string> bytes = ReadFile(path_, 1 << 20);
    ASSERT_OK(bytes);
    bytes_ = *bytes;
    const Result<CodebookFileInfo> info = InspectCodebookFile(path_);
    ASSERT_OK(info);
    info_ = *info;
  }
  void Write(const std::string& bytes) { ASSERT_OK(WriteFileAtomically(path_, bytes)); }
  std::string Flipped(size_t at) const {
    std::string bytes = bytes_;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    return bytes;
  }
  // "part offset" of every damage.
  std::vector<std::string> Damage() {
    const Json file = OnlyFile(Inspect({path_}));
    std::vector<std::string> damage;
    for (const Json& entry : At(file, "damaged").AsArray()) {
      damage.push_back(At(entry, "part").AsString() + " " +
                       std::to_string(At(entry, "offset").AsInt()));
    }
    return damage;
  }

  const TempDir dir_;
  std::string path_, bytes_;
  CodebookFileInfo info_;
};

TEST_F(InspectCodebooksTest, DescribesAWholeFile) {
  const Result<Report> report = Inspect({path_});
  const Json file = OnlyFile(report);
  EXPECT_TRUE(report->passed);
  EXPECT_EQ(At(file, "kind").AsString(), "codebooks");
  EXPECT_EQ(At(file, "version").AsInt(), 1);
  EXPECT_EQ(At(file, "model").AsString(), FingerprintOf("a model").Hex());
  EXPECT_EQ(At(file, "layers").AsInt(), kLayers);
  EXPECT_EQ(At(file, "kv_heads").AsInt(), kKvHeads);
  EXPECT_EQ(At(file, "pq").AsString(), "4x4");
  EXPECT_EQ(At(file, "bytes_per_key").AsInt(), 2);
  EXPECT_EQ(At(file, "rotation").AsString(), "pca");
  EXPECT_EQ(At(At(At(file, "judged"), "recall_at_100"), "worst").AsDouble(), 0.5);
  EXPECT_EQ(At(At(At(file, "judged"), "relative_mse"), "mean").AsDouble(), 0.1);
  const auto& blocks = At(file, "blocks").AsArray();
  ASSERT_EQ(blocks.size(), 6u);
  EXPECT_EQ(At(blocks[4], "layer").AsInt(), 1);
  EXPECT_EQ(At(blocks[4], "kv_head").AsInt(), 1);
  const int64_t block_bytes = (2 * kDim * kDim + 16 * kDim) * 4 + 8;
  EXPECT_EQ(At(file, "block_bytes").AsInt(), block_bytes);
  EXPECT_EQ(At(blocks[5], "offset").AsInt() + block_bytes, static_cast<int64_t>(bytes_.size()));
  EXPECT_NE(report->text.find("4x4"), std::string::npos);
}

TEST_F(InspectCodebooksTest, NamesEveryDamagedBlockAndGoesOn) {
  std::string bytes = Flipped(info_.blocks[1].offset + 100);
  bytes[info_.blocks[4].offset] ^= 1;
  Write(bytes);
  const std::vector<std::string> expected = {
      "block of layer 0 head 1 " + std::to_string(info_.blocks[1].offset),
      "block of layer 1 head 1 " + std::to_string(info_.blocks[4].offset)};
  EXPECT_EQ(Damage(), expected);
  const Json file = OnlyFile(Inspect({path_}));
  const auto& blocks = At(file, "blocks").AsArray();
  ASSERT_EQ(blocks.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(At(blocks[i], "damaged").AsBool(), i == 1 || i == 4);
  ExpectError(LoadCodebooks(path_), StatusCode::kCorruption, "block of layer 0 head 1");
}

TEST_F(InspectCodebooksTest, ReadsBlocksBehindADamagedHeader) {
  Write(Flipped(9));  // of the version
  EXPECT_EQ(Damage(), std::vector<std::string>{"header 0"});
  EXPECT_EQ(At(OnlyFile(Inspect({path_})), "blocks").AsArray().size(), 6u);
  const size_t digit = bytes_.find(FingerprintOf("a model").Hex());
  std::string bytes = bytes_;
  bytes[digit] = bytes[digit] == '0' ? '1' : '0';
  Write(bytes);
  EXPECT_EQ(Damage(), std::vector<std::string>{"description 32"});
  EXPECT_EQ(At(OnlyFile(Inspect({path_})), "blocks").AsArray().size(), 6u);
}

TEST_F(InspectCodebooksTest, SaysWhereAFileIsCutOffOrTooLong) {
  const std::string end = " " + std::to_string(info_.blocks[3].offset + 5);
  Write(bytes_.substr(0, info_.blocks[3].offset + 5));
  const std::vector<std::string> cut = {
      "block of layer 1 head 0 " + std::to_string(info_.blocks[3].offset), "end of the file" + end};
  EXPECT_EQ(Damage(), cut);
  EXPECT_EQ(At(OnlyFile(Inspect({path_})), "blocks").AsArray().size(), 3u);
  Write(bytes_ + "more");
  EXPECT_EQ(Damage(),
            std::vector<std::string>{"end of the file " + std::to_string(bytes_.size() + 4)});
  Write(bytes_.substr(0, 40));
  EXPECT_EQ(Damage(), std::vector<std::string>{"description 32"});
}

TEST_F(InspectCodebooksTest, SeesEveryFlippedByteThatLoadingRefuses) {
  Random random(7);
  for (int round = 0; round < 100; ++round) {
    const size_t at = 8 + random.Below(round % 2 == 0 ? 400 : bytes_.size() - 8);
    Write(Flipped(at));
    const Result<CodebookFileInfo> info = InspectCodebookFile(path_);
    ASSERT_OK(info);
    EXPECT_FALSE(info->damaged.empty()) << at;
    EXPECT_FALSE(LoadCodebooks(path_).ok()) << at;
  }
}

TEST(Inspect, DescribesAPage) {
  const Json file = OnlyFile(Inspect({kGoldenPage}));
  EXPECT_EQ(At(file, "kind").AsString(), "page");
  EXPECT_EQ(At(file, "layer").AsInt(), 5);
  EXPECT_EQ(At(file, "kv_head").AsInt(), 6);
  EXPECT_EQ(At(file, "page").AsInt(), 7);
  EXPECT_EQ(At(file, "tokens").AsInt(), 2);
  EXPECT_EQ(At(file, "dtype").AsString(), "f32");
}

TEST(Inspect, SaysWhatIsWrongWithAPage) {
  const TempDir dir;
  Result<std::string> bytes = ReadFile(kGoldenPage, 1 << 20);
  ASSERT_OK(bytes);
  bytes->back() ^= 1;
  ASSERT_OK(WriteFileAtomically(dir.File("body"), *bytes));
  const Json body = OnlyFile(Inspect({dir.File("body")}));
  EXPECT_EQ(At(body, "layer").AsInt(), 5);
  EXPECT_NE(At(At(body, "damaged").AsArray().at(0), "what").AsString().find("checksum"),
            std::string::npos);
  (*bytes)[12] = 9;
  ASSERT_OK(WriteFileAtomically(dir.File("header"), bytes->substr(0, 130)));
  const Json header = OnlyFile(Inspect({dir.File("header")}));
  EXPECT_EQ(header.Find("layer"), nullptr);
  EXPECT_NE(At(At(header, "damaged").AsArray().at(0), "what").AsString().find("layout is 9"),
            std::string::npos);
}

TEST(Inspect, DescribesAStore) {
  const TempDir dir;
  {
    const auto store = storage::OpenPageStore("rocksdb:path=" + dir.path());
    ASSERT_OK(store);
    for (int page = 0; page < 3; ++page) {
      const PageKey key = SampleKey("a", page, 1, 0);
      ASSERT_OK(PutPage(store->get(), key, SamplePage(key)));
    }
    ASSERT_OK((*store)->Sync());
  }
  const Json whole = OnlyFile(Inspect({dir.path()}));
  EXPECT_EQ(At(whole, "kind").AsString(), "store");
  EXPECT_EQ(At(whole, "pages").AsInt(), 3);
  const Json& context = At(whole, "contexts").AsArray().at(0);
  EXPECT_EQ(At(context, "context").AsString(), SampleContext("a").context.Hex());
  EXPECT_EQ(At(context, "tokens").AsInt(), 132);
  for (const auto& entry : fs::directory_iterator(dir.path())) {
    if (entry.path().extension() != ".sst") continue;
    Result<std::string> bytes = ReadFile(entry.path(), 1 << 20);
    ASSERT_OK(bytes);
    (*bytes)[1000] ^= 1;
    ASSERT_OK(WriteFileAtomically(entry.path(), *bytes));
  }
  const Json damaged = OnlyFile(Inspect({dir.path()}));
  EXPECT_EQ(At(damaged, "pages").AsInt(), 2);
  EXPECT_EQ(At(damaged, "damaged_pages").AsInt(), 1);
  const Json& part = At(damaged, "damaged").AsArray().at(0);
  EXPECT_TRUE(At(part, "part").AsString().starts_with("page 0 of layer 1 head 0"));
  EXPECT_TRUE(At(part, "file").AsString().ends_with(".sst"));
  EXPECT_EQ(At(part, "offset").AsInt(), 0);
}

TEST(Inspect, RefusesWhatItDoesNotKnow) {
  const TempDir dir;
  ASSERT_OK(WriteFileAtomically(dir.File("text"), "PQ"));
  ExpectError(Inspect({}), StatusCode::kInvalidArgument, "no path");
  ExpectError(Inspect({dir.File("text")}), StatusCode::kUnsupported, "PQCBOOK1");
  ExpectError(Inspect({dir.path()}), StatusCode::kUnsupported, "PQCACHE_STORE");
  ExpectError(Inspect({dir.File("absent")}), StatusCode::kNotFound, "absent");
}

TEST(Inspect, GoesOnWithTheOtherPaths) {
  const TempDir dir;
  const Result<Report> report = Inspect({dir.File("absent"), kGoldenPage});
  ASSERT_OK(report);
  EXPECT_FALSE(report->passed);
  const auto& files = At(report->json, "files").AsArray();
  ASSERT_EQ(files.size(), 2u);
  EXPECT_NE(At(files[0], "error").AsString().find("absent"), std::string::npos);
  EXPECT_EQ(At(files[1], "kind").AsString(), "page");
}

}  // namespace
}  // namespace pqcache::tools
