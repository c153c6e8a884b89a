#pragma once

// The regular expressions by which byte-level tokenisers cut text into words, as hand-written
// scanners: each finds what the leftmost match of the expression finds, in one pass without
// backtracking. Pure functions, callable from any thread.

#include <cstddef>
#include <string_view>

#include "pqcache/base/status.h"

namespace pqcache::attention {

enum class SplitPattern {
  kGpt2,    // ByteLevel with use_regex
  kLlama3,  // up to three digits a word
  kQwen2,   // one digit a word
};

// The pattern that `regex` spells, character by character; any other text is kUnsupported.
Result<SplitPattern> FindSplitPattern(std::string_view regex);

// End of the word that starts at text[pos]. `text` is UTF-8, pos < text.size() is the start of a
// character; words follow each other without gaps.
size_t FindWordEnd(SplitPattern pattern, std::string_view text, size_t pos);

}  // namespace pqcache::attention
