#pragma once

// The decoder of a tokenizer.json, which turns tokens back into text: ByteLevel, Metaspace,
// Replace of a text, ByteFallback, Fuse, Strip, or a Sequence of these. Every step works on a
// stream: it passes on what no later token can change, and holds the rest back.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

// One step at work on one sequence. Tokens going in and coming out are valid UTF-8.
class DecoderStep {
 public:
  virtual ~DecoderStep() = default;
  // Appends to `out` the tokens that became certain.
  virtual void Push(std::string token, std::vector<std::string>* out) = 0;
  // Appends what was held back; nothing is pushed afterwards.
  virtual void Finish(std::vector<std::string>* out) { (void)out; }
};

// Immutable: share it between threads.
class TokenDecoder {
 public:
  // After Fuse or ByteLevel, which make one token of everything, only Strip and Fuse may follow.
  static Result<TokenDecoder> FromJson(const Json& json);

  using StepMaker = std::function<std::unique_ptr<DecoderStep>()>;
  const std::vector<StepMaker>& step_makers() const { return step_makers_; }

 private:
  std::vector<StepMaker> step_makers_;
};

// The decoding of one sequence; one thread.
class TokenDecoderRun {
 public:
  explicit TokenDecoderRun(const TokenDecoder& decoder);
  // Text that `token` made certain, valid UTF-8.
  std::string Push(const std::string& token);
  // The rest of the text; nothing is pushed afterwards.
  std::string Finish();

 private:
  // Text that comes out of the last step when `tokens` go into step `first`.
  std::string PassOn(size_t first, std::vector<std::string> tokens);

  std::vector<std::unique_ptr<DecoderStep>> steps_;
};

}  // namespace pqcache::attention
