// A seed that its reader refuses leads a fuzz target nowhere.

#include <gtest/gtest.h>

#include <filesystem>

#include "attention/model/checkpoint.h"
#include "attention/tokenizer/tokenizer.h"
#include "pqcache/base/file_io.h"
#include "storage/resp_reply.h"
#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

std::vector<std::string> SeedsOf(const std::string& target) {
  std::vector<std::string> paths;
  const std::string folder = std::string(PQCACHE_SOURCE_DIR) + "/tests/fuzz/seeds/" + target;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    paths.push_back(entry.path().string());
  }
  EXPECT_FALSE(paths.empty());
  return paths;
}

TEST(FuzzSeeds, SafetensorsFilesOpen) {
  for (const std::string& path : SeedsOf("safetensors_header")) {
    if (path.ends_with(".safetensors")) EXPECT_OK(attention::Checkpoint::Open(path));
  }
}

TEST(FuzzSeeds, TokenizersEncode) {
  for (const std::string& path : SeedsOf("tokenizer")) {
    const auto tokenizer = attention::Tokenizer::Load(path);
    ASSERT_OK(tokenizer);
    EXPECT_OK(tokenizer->Encode("Hello", true));
  }
}

TEST(FuzzSeeds, RepliesAreWhole) {
  for (const std::string& path : SeedsOf("resp_reply")) {
    const auto bytes = ReadFile(path, 4096);
    ASSERT_OK(bytes);
    EXPECT_OK(storage::ParseReplies(*bytes));
  }
}

}  // namespace
}  // namespace pqcache
