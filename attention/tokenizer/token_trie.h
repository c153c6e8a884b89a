#pragma once

// A set of byte strings that finds the longest one starting at a given place. Immutable after the
// last Insert: share it between threads.

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace pqcache::attention {

class TokenTrie {
 public:
  // `value` >= 0. False, and nothing changes, when `text` is empty or already there.
  bool Insert(std::string_view text, int64_t value);

  struct Match {
    int64_t value = -1;  // -1: nothing starts here
    size_t length = 0;
  };
  Match FindLongest(std::string_view text, size_t pos) const;

 private:
  std::unordered_map<uint64_t, uint32_t> edges_;  // node << 8 | byte -> node
  std::vector<int64_t> values_ = {-1};            // by node; the root is 0
  std::array<bool, 256> first_bytes_{};           // most places are turned down by one look-up
};

}  // namespace pqcache::attention
