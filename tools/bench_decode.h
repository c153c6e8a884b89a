#pragma once

// Speed of decoding with a part of the keys and values in memory and the rest in RocksDB, beside
// all of them in memory: one model, one text, the same tokens, taken in turns.

#include <memory>
#include <string>

#include "attention/decoder/decoder.h"
#include "pqcache/index/codebook.h"
#include "tools/cli.h"

namespace pqcache::tools {

struct DecodeBenchOptions {
  std::string folder = ".";  // on the disk to be measured
  std::shared_ptr<const CodebookSet> codebooks;
  int64_t tokens = 16000;  // of the context, which the model samples itself
  int page_tokens = 16;
  double ratio = 0.02;  // of the context that a step selects
  int rounds = 5;       // of kDecodeSteps tokens; the medians are given
  uint64_t seed = 0;
};
inline constexpr int kDecodeSteps = 24;

// Adds a row for memory and one for a quarter of it to `rows`, lines to `text`.
Status BenchDecode(const attention::Decoder& decoder, const DecodeBenchOptions& options, Json* rows,
                   std::string* text);

}  // namespace pqcache::tools
