#pragma once

// Byte-pair encoding (Sennrich et al., 2016) as the model of a tokenizer.json declares it: a
// vocabulary, merges in order of rank, and what happens to characters outside the vocabulary.
// Immutable: share it between threads.

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

class BpeModel {
 public:
  static constexpr int64_t kMaxVocabSize = int64_t{1} << 21;

  static Result<BpeModel> FromJson(const Json& json);
  BpeModel(BpeModel&&) = default;
  BpeModel& operator=(BpeModel&&) = default;

  // Appends the ids of one word (UTF-8). O(n log n) in its length.
  void Tokenize(std::string_view word, std::vector<int64_t>* ids) const;

  // -1 when there is no such token.
  int64_t IdOf(std::string_view token) const;
  // nullptr when there is no such id.
  const std::string* Find(int64_t id) const;
  // Highest id + 1.
  int64_t vocab_size() const { return static_cast<int64_t>(tokens_.size()); }

 private:
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  struct Merge {
    int32_t rank;
    int32_t id;
  };
  struct Symbol {
    int32_t id;
    int64_t previous;  // -1: none
    int64_t next;      // -1: none; kMerged: this one was merged into its left neighbour
  };

  BpeModel() = default;
  Status ParseOptions(const Json& json);
  Status ParseVocab(const Json& json);
  Status ParseMerges(const Json& json);
  Status AddMerge(std::string_view left, std::string_view right);
  Status CheckByteTokens();

  const Merge* FindMerge(int32_t left, int32_t right) const;
  std::vector<Symbol> SplitCharacters(std::string_view word) const;
  void MergeSymbols(std::vector<Symbol>* symbols) const;

  std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>> ids_;
  std::vector<const std::string*> tokens_;      // by id, the keys of ids_; nullptr in gaps
  std::unordered_map<uint64_t, Merge> merges_;  // left << 32 | right
  std::vector<int32_t> byte_ids_;               // [256], empty without byte_fallback
  int32_t unknown_id_ = -1;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace pqcache::attention
