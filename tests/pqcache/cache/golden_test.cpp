// Bytes that this version writes and every later one has to read.

#include <gtest/gtest.h>

#include "pqcache/base/file_io.h"
#include "pqcache/cache/manifest.h"
#include "pqcache/cache/stored_pages.h"
#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

ContextManifest SomeManifest() {
  ContextManifest m;
  m.name = "golden-1";
  m.identity = {TenantOf("salt"),
                FingerprintOf("model"),
                {.dtype = DType::kBF16, .dim = 4, .page_tokens = 16},
                2,
                3};
  m.context = FingerprintOf("context");
  m.codes = {FingerprintOf("codebooks"), 8};
  std::vector<int64_t> tokens(100);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int64_t>(i * i);
  m.tokens = 100;
  m.owners = {{4, {m.identity.tenant, m.identity.model, FingerprintOf("parent")}}, {7, m.id()}};
  m.chain = HashChain(m.identity, tokens);
  m.bytes = 12345;
  m.created = 1700000000;
  return m;
}

// Two rows of each kind, bytes counted up.
std::string SomePage(PageKind kind) {
  const ContextManifest m = SomeManifest();
  const PageShape shape = StoredShape(m, kind);
  std::vector<uint8_t> rows(2 * shape.row_bytes());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<uint8_t>(i);
  const PageRef page = EncodePage({m.id(), 1, 2, 3, kind}, shape, 2, rows);
  return std::string(reinterpret_cast<const char*>(page->data()), page->size());
}

std::string Golden(const std::string& name) {
  const std::string path = std::string(PQCACHE_SOURCE_DIR) + "/tests/golden/" + name;
  const Result<std::string> bytes = ReadFile(path, 1 << 20);
  EXPECT_OK(bytes);
  return bytes.ok() ? *bytes : "";
}

TEST(Golden, ManifestIsReadAndWrittenAsBefore) {
  const std::string bytes = Golden("manifest_v1.bin");
  EXPECT_EQ(EncodeManifest(SomeManifest()), bytes);
  const Result<ContextManifest> read = DecodeManifest(bytes);
  ASSERT_OK(read);
  const ContextManifest wanted = SomeManifest();
  EXPECT_EQ(read->name, wanted.name);
  EXPECT_EQ(read->id(), wanted.id());
  EXPECT_EQ(read->owners, wanted.owners);
  EXPECT_EQ(read->chain, wanted.chain);
  EXPECT_EQ(read->codes, wanted.codes);
  EXPECT_EQ(read->tokens, 100);
}

TEST(Golden, PagesOfEveryKindAreReadAndWrittenAsBefore) {
  for (const PageKind kind :
       {PageKind::kRows, PageKind::kCodes, PageKind::kValueSums, PageKind::kTokens}) {
    const std::string bytes =
        Golden("page_kind" + std::to_string(static_cast<int>(kind)) + "_v1.bin");
    EXPECT_EQ(SomePage(kind), bytes);
    const std::span<const uint8_t> page(reinterpret_cast<const uint8_t*>(bytes.data()),
                                        bytes.size());
    EXPECT_OK(VerifyPage(page, {SomeManifest().id(), 1, 2, 3, kind}));
    EXPECT_FALSE(VerifyPage(page, {SomeManifest().id(), 1, 2, 4, kind}).ok());
  }
}

}  // namespace
}  // namespace pqcache
