#pragma once

// Words of a text, as the scorers of benchmarks take them apart, and how they compare what two
// texts have in common. ASCII only. Pure functions.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace pqcache::tools {

using Words = std::vector<std::string>;

bool IsDigit(char c);
bool IsSpace(char c);
char Lower(char c);

std::string Lowered(std::string_view text);

// Runs of characters for which `keep` holds.
Words SplitBy(std::string_view text, bool (*keep)(char));
// Runs of characters that are no blanks.
Words SplitSpace(std::string_view text);

// Harmonic mean of the shares of `same` in both sizes; 0 if nothing is the same.
double F1(size_t same, size_t said, size_t expected);

}  // namespace pqcache::tools
