#include "attention/tokenizer/token_trie.h"

namespace pqcache::attention {
namespace {

uint64_t EdgeKey(uint32_t node, char byte) {
  return (uint64_t{node} << 8) | static_cast<unsigned char>(byte);
}

}  // namespace

bool TokenTrie::Insert(std::string_view text, int64_t value) {
  if (text.empty()) return false;
  uint32_t node = 0;
  for (const char byte : text) {
    const auto [edge, added] =
        edges_.try_emplace(EdgeKey(node, byte), static_cast<uint32_t>(values_.size()));
    if (added) values_.push_back(-1);
    node = edge->second;
  }
  if (values_[node] >= 0) return false;
  values_[node] = value;
  first_bytes_[static_cast<unsigned char>(text[0])] = true;
  return true;
}

TokenTrie::Match TokenTrie::FindLongest(std::string_view text, size_t pos) const {
  Match match;
  if (!first_bytes_[static_cast<unsigned char>(text[pos])]) return match;
  uint32_t node = 0;
  for (size_t at = pos; at < text.size(); ++at) {
    const auto edge = edges_.find(EdgeKey(node, text[at]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (values_[node] >= 0) match = {values_[node], at + 1 - pos};
  }
  return match;
}

}  // namespace pqcache::attention
