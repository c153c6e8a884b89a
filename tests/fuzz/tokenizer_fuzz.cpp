// The input is a tokenizer.json. One that loads must encode and decode.

#include "attention/tokenizer/tokenizer.h"
#include "attention/tokenizer/unicode.h"
#include "pqcache/base/check.h"
#include "tests/fuzz/fuzz_bytes.h"

namespace pqcache::attention {
namespace {

constexpr char kText[] = "Hello  w\u00f6rld <s>123<|endoftext|>\r\n\tab'LL \u4e2d e\u0301 abc";

void CheckDecoding(const Tokenizer& tokenizer, std::span<const int64_t> ids, bool skip_special) {
  const Result<std::string> text = tokenizer.Decode(ids, skip_special);
  PQCACHE_CHECK(text.ok(), "its own ids are refused");
  PQCACHE_CHECK(FindInvalidUtf8(*text) == std::string_view::npos, "not UTF-8");
  StreamDecoder stream(&tokenizer, skip_special);
  std::string streamed;
  for (const int64_t id : ids) {
    const Result<std::string> piece = stream.Push(id);
    PQCACHE_CHECK(piece.ok(), "its own id is refused");
    PQCACHE_CHECK(FindInvalidUtf8(*piece) == std::string_view::npos, "a piece is not UTF-8");
    streamed += *piece;
  }
  streamed += stream.Finish().value();
  PQCACHE_CHECK(streamed == *text, "the pieces are another text");
}

void Try(std::string_view json) {
  const Result<Tokenizer> tokenizer = Tokenizer::Parse(json);
  if (!tokenizer.ok()) return;
  const Result<std::vector<int64_t>> ids = tokenizer->Encode(kText, true);
  PQCACHE_CHECK(ids.ok(), "good text is refused");
  for (const int64_t id : *ids) {
    PQCACHE_CHECK(id >= 0 && id < tokenizer->vocab_size(), "an id outside the vocabulary");
  }
  CheckDecoding(*tokenizer, *ids, false);
  CheckDecoding(*tokenizer, *ids, true);
}

}  // namespace
}  // namespace pqcache::attention

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pqcache::attention::Try(pqcache::testing::TextOf({data, size}));
  return 0;
}
