#pragma once

// The steps a decoder is made of, each for one sequence (see decoder.h).

#include <cstdint>
#include <memory>
#include <string>

#include "attention/tokenizer/component.h"
#include "attention/tokenizer/token_decoder.h"

namespace pqcache::attention {

// Characters cut off at the two ends where they equal `content`, at most `start` and `stop`.
struct StripOptions {
  std::string content;  // one character
  int64_t start = 0;
  int64_t stop = 0;
};

// Bytes of the byte-level alphabet to UTF-8; U+FFFD for each maximal invalid part.
std::unique_ptr<DecoderStep> MakeByteLevelStep();
// Runs of byte tokens (<0x41>) to the text they spell, or to one U+FFFD a byte when the run as a
// whole is not UTF-8. A run is certain only once it has ended.
std::unique_ptr<DecoderStep> MakeByteFallbackStep();
// The replacement to a space; in the first token to nothing, unless no space is ever put in front.
std::unique_ptr<DecoderStep> MakeMetaspaceStep(const MetaspaceOptions& options);
// `from` to `to` inside each token.
std::unique_ptr<DecoderStep> MakeReplaceStep(const std::string& from, const std::string& to);
// Everything is one token from here on.
std::unique_ptr<DecoderStep> MakeFuseStep();
// Strip of each token.
std::unique_ptr<DecoderStep> MakeStripStep(const StripOptions& options);
// Strip of the one token that a step before made of everything.
std::unique_ptr<DecoderStep> MakeFusedStripStep(const StripOptions& options);

}  // namespace pqcache::attention
