#pragma once

// Texts that a few numbers describe: their tokens, keys and values are functions of the
// description, so that any process can tell what a stored context must hold.

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "pqcache/base/random.h"

namespace pqcache::testing {

class SampleText {
 public:
  int64_t tokens() const { return parts_.empty() ? 0 : parts_.back().end; }
  bool operator==(const SampleText&) const = default;

  // `n` more tokens; the same seed again goes on as if they had been added at once.
  void Append(uint64_t seed, int64_t n) {
    if (parts_.empty() || parts_.back().seed != seed) parts_.push_back({seed, tokens()});
    parts_.back().end += n;
  }
  SampleText Prefix(int64_t tokens) const {
    SampleText prefix;
    for (const Part& part : parts_) {
      const int64_t n = std::min(part.end, tokens) - prefix.tokens();
      if (n > 0) prefix.Append(part.seed, n);
    }
    return prefix;
  }
  // Leading tokens that both have.
  int64_t SharedWith(const SampleText& other) const {
    int64_t shared = 0;
    for (size_t i = 0; i < std::min(parts_.size(), other.parts_.size()); ++i) {
      if (parts_[i].seed != other.parts_[i].seed) break;
      shared = std::min(parts_[i].end, other.parts_[i].end);
      if (parts_[i].end != other.parts_[i].end) break;
    }
    return shared;
  }

  std::vector<int64_t> Ids() const {
    std::vector<int64_t> ids;
    for (const Part& part : parts_) {
      while (static_cast<int64_t>(ids.size()) < part.end) {
        ids.push_back(static_cast<int64_t>(MixSeed(part.seed, ids.size()) >> 33));
      }
    }
    return ids;
  }
  // [end - begin, 8] keys (or values) of a layer and head: sixteenths below 8, which every dtype
  // and every sum of them holds exactly.
  std::vector<float> Rows(int layer, int head, bool values, int64_t begin, int64_t end) const {
    std::vector<float> rows;
    auto part = parts_.begin();
    for (int64_t t = begin; t < end; ++t) {
      while (part->end <= t) ++part;
      const uint64_t place = static_cast<uint64_t>(t) * 64 +
                             static_cast<uint64_t>(layer * 16 + head * 2 + (values ? 1 : 0));
      const uint64_t bytes = MixSeed(~part->seed, place);
      for (int d = 0; d < kDim; ++d) {
        rows.push_back(static_cast<float>(static_cast<int8_t>(bytes >> 8 * d)) / 16);
      }
    }
    return rows;
  }
  static constexpr int kDim = 8;

  // "SEED:END,SEED:END"
  std::string Describe() const {
    std::string text;
    for (const Part& part : parts_) {
      text +=
          (text.empty() ? "" : ",") + std::to_string(part.seed) + ":" + std::to_string(part.end);
    }
    return text;
  }
  static SampleText Parse(const std::string& description) {
    SampleText text;
    std::istringstream in(description);
    char sign = 0;
    for (Part part; in >> part.seed >> sign >> part.end; in >> sign) text.parts_.push_back(part);
    return text;
  }

 private:
  struct Part {
    uint64_t seed = 0;
    int64_t end = 0;
    bool operator==(const Part&) const = default;
  };
  std::vector<Part> parts_;
};

}  // namespace pqcache::testing
