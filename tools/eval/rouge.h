#pragma once

// ROUGE (Lin, 2004) as F1 in [0, 1], in the two forms in which benchmarks compute it. They differ
// by more than rounding, so a score is comparable only with its own kind. 0 where a text is empty.
// Blanks are those of ASCII (Python's split takes U+00A0 and its like for blanks, too). Pure
// functions.

#include <cstddef>
#include <string_view>

namespace pqcache::tools {

// The form of the Python package `rouge`, which LongBench and H2O's scripts call. Words are what
// stands between blanks, in their case and with their punctuation, but a full stop ends a sentence
// and goes. Every n-gram counts once, however often it is said.
double RougeN(std::string_view prediction, std::string_view reference, size_t n);

// In that form, of several sentences: the words of the longest common subsequences of all pairs of
// sentences, each word once.
double RougeL(std::string_view prediction, std::string_view reference);

// The form of the Python package `rouge_score` (rougeLsum, no stemming), which InfiniteBench calls
// for summaries. Words are letters and digits in lower case, a line is a sentence, and words count
// as often as they are said.
double RougeLsum(std::string_view prediction, std::string_view reference);

}  // namespace pqcache::tools
