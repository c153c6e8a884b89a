#include "tools/eval/words.h"

#include <algorithm>

namespace pqcache::tools {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 'a' - 'A') : c; }

std::string Lowered(std::string_view text) {
  std::string lowered(text);
  std::transform(lowered.begin(), lowered.end(), lowered.begin(), Lower);
  return lowered;
}

Words SplitBy(std::string_view text, bool (*keep)(char)) {
  Words words;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && keep(text[end])) ++end;
    if (end > i) words.emplace_back(text.substr(i, end - i));
    i = std::max(end, i + 1);
  }
  return words;
}

Words SplitSpace(std::string_view text) {
  return SplitBy(text, [](char c) { return !IsSpace(c); });
}

double F1(size_t same, size_t said, size_t expected) {
  if (same == 0) return 0;
  return 2 * static_cast<double>(same) / static_cast<double>(said + expected);
}

}  // namespace pqcache::tools
