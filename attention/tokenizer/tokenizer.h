#pragma once

// tokenizer.json of Hugging Face, executed as declared: added tokens, normaliser, pre-tokeniser,
// BPE model, post-processor, decoder. A component that this file does not know is refused by
// name; nothing is guessed from a model's name. Immutable after Load: share it between threads.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/status.h"

namespace pqcache::attention {

class Tokenizer {
 public:
  // From the text of a tokenizer.json (at most 64 MiB).
  static Result<Tokenizer> Parse(std::string_view json);
  // From a file.
  static Result<Tokenizer> Load(const std::string& path);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Ids of UTF-8 text; added tokens inside the text are recognised. `add_special` applies the
  // post-processor's template (<s>, <|begin_of_text|>, ...). Text that is not UTF-8 is refused.
  Result<std::vector<int64_t>> Encode(std::string_view text, bool add_special) const;

  // Text of ids. `skip_special` leaves special tokens out. An id outside the vocabulary is refused.
  Result<std::string> Decode(std::span<const int64_t> ids, bool skip_special) const;

  int64_t vocab_size() const;  // highest id + 1, added tokens included
  // -1 when there is no such token.
  int64_t TokenId(std::string_view token) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  friend class StreamDecoder;
  std::unique_ptr<Impl> impl_;
};

// Decodes a growing sequence: each Push returns the text that became certain. Bytes of an
// unfinished UTF-8 character are held back, so that every piece printed is valid UTF-8; the
// pieces together equal Decode of all ids. One sequence, one thread.
class StreamDecoder {
 public:
  // `tokenizer` must outlive the decoder.
  StreamDecoder(const Tokenizer* tokenizer, bool skip_special);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();

  // An id outside the vocabulary is refused and leaves the sequence as it was.
  Result<std::string> Push(int64_t id);
  // What was held back, replacement characters for bytes that stayed incomplete. The next Push
  // begins a new sequence.
  Result<std::string> Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pqcache::attention
