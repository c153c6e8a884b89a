#include "tools/eval/rouge.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tools/eval/words.h"

namespace pqcache::tools {
namespace {

using Sentences = std::vector<Words>;

// Which of two equally long ways a longest common subsequence takes, from the end of both: the
// packages differ, and with it which words the union of several of them holds.
enum class OnTie { kSkipSaid, kSkipReference };

// The places in `reference` of a longest common subsequence of both, descending. A byte for each
// pair of words.
std::vector<size_t> CommonPlaces(const Words& reference, const Words& said, OnTie tie) {
  enum class Way : uint8_t { kBoth, kSkipSaid, kSkipReference };
  std::vector<Way> ways(reference.size() * said.size());
  std::vector<size_t> lengths(said.size() + 1, 0);  // of the words so far, by words of `said`
  for (size_t i = 0; i < reference.size(); ++i) {
    size_t diagonal = 0;
    for (size_t j = 0; j < said.size(); ++j) {
      const size_t without_reference = lengths[j + 1], without_said = lengths[j];
      Way& way = ways[i * said.size() + j];
      if (reference[i] == said[j]) {
        way = Way::kBoth;
        lengths[j + 1] = diagonal + 1;
      } else {
        const bool skip_reference =
            without_reference > without_said ||
            (without_reference == without_said && tie == OnTie::kSkipReference);
        way = skip_reference ? Way::kSkipReference : Way::kSkipSaid;
        lengths[j + 1] = std::max(without_reference, without_said);
      }
      diagonal = without_reference;
    }
  }
  std::vector<size_t> places;
  for (size_t i = reference.size(), j = said.size(); i > 0 && j > 0;) {
    const Way way = ways[(i - 1) * said.size() + j - 1];
    if (way == Way::kBoth) places.push_back(i - 1);
    if (way != Way::kSkipSaid) --i;
    if (way != Way::kSkipReference) --j;
  }
  return places;
}

// What stands between two of `mark`; nothing stands between neighbours.
std::vector<std::string_view> Pieces(std::string_view text, char mark) {
  std::vector<std::string_view> pieces;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(mark, begin), text.size());
    if (end > begin) pieces.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return pieces;
}

// Blanks between full stops are one word without letters, as in the package.
Sentences RougeSentences(std::string_view text) {
  Sentences sentences;
  for (const std::string_view piece : Pieces(text, '.')) {
    sentences.push_back(SplitSpace(piece));
    if (sentences.back().empty()) sentences.back().emplace_back();
  }
  return sentences;
}

std::set<Words> Grams(const Sentences& sentences, size_t n) {
  Words words;
  for (const Words& sentence : sentences) {
    words.insert(words.end(), sentence.begin(), sentence.end());
  }
  std::set<Words> grams;
  for (size_t i = 0; i + n <= words.size(); ++i) {
    const auto begin = words.begin() + static_cast<std::ptrdiff_t>(i);
    grams.emplace(begin, begin + static_cast<std::ptrdiff_t>(n));
  }
  return grams;
}

}  // namespace

double RougeN(std::string_view prediction, std::string_view reference, size_t n) {
  const std::set<Words> said = Grams(RougeSentences(prediction), n);
  const std::set<Words> expected = Grams(RougeSentences(reference), n);
  const auto same = std::count_if(said.begin(), said.end(),
                                  [&](const Words& gram) { return expected.contains(gram); });
  return F1(static_cast<size_t>(same), said.size(), expected.size());
}

double RougeL(std::string_view prediction, std::string_view reference) {
  const Sentences said = RougeSentences(prediction), expected = RougeSentences(reference);
  std::set<std::string> common;
  for (const Words& sentence : expected) {
    for (const Words& other : said) {
      for (const size_t place : CommonPlaces(sentence, other, OnTie::kSkipSaid)) {
        common.insert(sentence[place]);
      }
    }
  }
  return F1(common.size(), Grams(said, 1).size(), Grams(expected, 1).size());
}

double RougeLsum(std::string_view prediction, std::string_view reference) {
  std::map<std::string, int64_t> left_said, left_expected;  // words that may still be counted
  size_t words_said = 0, words_expected = 0;
  const auto take_apart = [](std::string_view text, std::map<std::string, int64_t>* counts,
                             size_t* total) {
    Sentences sentences;
    for (const std::string_view line : Pieces(text, '\n')) {
      sentences.push_back(
          SplitBy(Lowered(line), [](char c) { return IsDigit(c) || (c >= 'a' && c <= 'z'); }));
      for (const std::string& word : sentences.back()) ++(*counts)[word];
      *total += sentences.back().size();
    }
    return sentences;
  };
  const Sentences said = take_apart(prediction, &left_said, &words_said);
  const Sentences expected = take_apart(reference, &left_expected, &words_expected);
  size_t same = 0;
  for (const Words& sentence : expected) {
    std::set<size_t> places;
    for (const Words& other : said) {
      for (const size_t place : CommonPlaces(sentence, other, OnTie::kSkipReference)) {
        places.insert(place);
      }
    }
    for (const size_t place : places) {
      int64_t& other = left_said[sentence[place]];
      int64_t& own = left_expected[sentence[place]];
      if (other <= 0 || own <= 0) continue;
      ++same;
      --other;
      --own;
    }
  }
  return F1(same, words_said, words_expected);
}

}  // namespace pqcache::tools
