#include "tools/eval/metrics.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <optional>

#include "tools/eval/rouge.h"
#include "tools/eval/words.h"

namespace pqcache::tools {
namespace {

bool IsPunctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}
char Upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

Words Numbers(std::string_view text) { return SplitBy(text, IsDigit); }

// `characters` become blanks.
std::string Blanked(std::string_view text, std::string_view characters) {
  std::string blanked(text);
  for (char& c : blanked) c = characters.find(c) == std::string_view::npos ? c : ' ';
  return blanked;
}

bool Contains(const Words& words, std::string_view word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

double Best(const References& r, const std::function<double(const std::string&)>& score) {
  double best = 0;
  for (const std::string& answer : r.answers) best = std::max(best, score(answer));
  return best;
}

size_t CountCommon(const Words& a, const Words& b) {
  std::map<std::string, int64_t> counts;
  for (const std::string& word : a) ++counts[word];
  size_t common = 0;
  for (const std::string& word : b) common += counts[word]-- > 0 ? 1 : 0;
  return common;
}

// Length of the longest common subsequence of characters.
size_t CommonSubsequence(std::string_view a, std::string_view b) {
  std::vector<size_t> lengths(b.size() + 1, 0);
  for (const char x : a) {
    size_t diagonal = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t above = lengths[j + 1];
      lengths[j + 1] = x == b[j] ? diagonal + 1 : std::max(above, lengths[j]);
      diagonal = above;
    }
  }
  return lengths.back();
}

// The question-answering words of SQuAD: no punctuation, no articles.
Words AnswerWords(std::string_view text) {
  std::string kept;
  for (const char c : text) {
    if (!IsPunctuation(c)) kept.push_back(Lower(c));
  }
  Words words = SplitSpace(kept);
  std::erase_if(words, [](const std::string& w) { return w == "a" || w == "an" || w == "the"; });
  return words;
}

// Characters of UTF-8 text without blanks and ASCII punctuation.
Words AnswerCharacters(std::string_view text) {
  Words characters;
  for (const char c : text) {
    const bool continues = (static_cast<unsigned char>(c) & 0xc0) == 0x80;
    if (continues && !characters.empty()) {
      characters.back().push_back(c);
    } else if (!IsSpace(c) && !IsPunctuation(c)) {
      characters.emplace_back(1, Lower(c));
    }
  }
  return characters;
}

double Prefix(std::string_view prediction, const References& r) {
  return Best(r, [&](const std::string& answer) { return prediction.starts_with(answer); });
}

double MatchAll(std::string_view prediction, const References& r) {
  const std::string text = Lowered(prediction);
  double found = 0;
  for (const std::string& answer : r.answers) {
    found += text.find(Lowered(answer)) != std::string::npos ? 1 : 0;
  }
  return found / static_cast<double>(r.answers.size());
}

double MatchAny(std::string_view prediction, const References& r) {
  const std::string text = Lowered(prediction);
  return Best(r, [&](const std::string& answer) {
    return text.find(Lowered(answer)) != std::string::npos;
  });
}

double WordF1(std::string_view prediction, const References& r, Words (*split)(std::string_view)) {
  const Words predicted = split(prediction);
  return Best(r, [&](const std::string& answer) {
    const Words expected = split(answer);
    return F1(CountCommon(predicted, expected), predicted.size(), expected.size());
  });
}

double QaF1(std::string_view prediction, const References& r) {
  return WordF1(prediction, r, AnswerWords);
}
double QaF1Characters(std::string_view prediction, const References& r) {
  return WordF1(prediction, r, AnswerCharacters);
}
double Rouge1(std::string_view prediction, const References& r) {
  return Best(r, [&](const std::string& answer) { return RougeN(prediction, answer, 1); });
}
double Rouge2(std::string_view prediction, const References& r) {
  return Best(r, [&](const std::string& answer) { return RougeN(prediction, answer, 2); });
}
double RougeOfSentences(std::string_view prediction, const References& r) {
  return Best(r, [&](const std::string& answer) { return RougeL(prediction, answer); });
}
double RougeOfLines(std::string_view prediction, const References& r) {
  return Best(r, [&](const std::string& answer) { return RougeLsum(prediction, answer); });
}

// LongBench: the first line that is no comment; similarity by insertions and deletions, in whole
// percent.
double Edit(std::string_view prediction, const References& r) {
  std::string line;
  size_t begin = prediction.find_first_not_of('\n');
  while (begin < prediction.size()) {
    const size_t end = std::min(prediction.find('\n', begin), prediction.size());
    const std::string_view found = prediction.substr(begin, end - begin);
    const auto has = [&](std::string_view mark) { return found.find(mark) != found.npos; };
    if (!has("`") && !has("#") && !has("//")) {
      line = found;
      break;
    }
    begin = end + 1;
  }
  return Best(r, [&](const std::string& answer) {
    const double share = F1(CommonSubsequence(line, answer), line.size(), answer.size());
    return std::round(100 * share) / 100;
  });
}

// LongBench: the classes that are named, less those that are part of the right one's name. Its
// loop skips the class behind one that it takes out; so does this one.
double Classification(std::string_view prediction, const References& r) {
  return Best(r, [&](const std::string& answer) {
    Words named;
    for (const std::string& name : r.classes) {
      if (prediction.find(name) != std::string_view::npos) named.push_back(name);
    }
    for (size_t i = 0; i < named.size(); ++i) {
      if (answer.find(named[i]) != std::string::npos && named[i] != answer) {
        named.erase(named.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
    return Contains(named, answer) ? 1.0 / static_cast<double>(named.size()) : 0.0;
  });
}

// Share of the numbers said that are the right one.
double NumberShare(std::string_view prediction, std::string_view number) {
  const Words said = Numbers(prediction);
  const auto right = std::count(said.begin(), said.end(), number);
  return said.empty() ? 0.0 : static_cast<double>(right) / static_cast<double>(said.size());
}

double Count(std::string_view prediction, const References& r) {
  return Best(r, [&](const std::string& answer) { return NumberShare(prediction, answer); });
}

// The right answer is "Paragraph N".
double Retrieval(std::string_view prediction, const References& r) {
  return Best(r, [&](const std::string& answer) {
    const Words numbers = Numbers(answer);
    return numbers.empty() ? 0.0 : NumberShare(prediction, numbers.front());
  });
}

double FirstNumber(std::string_view prediction, const References& r) {
  const Words said = Numbers(prediction);
  return !said.empty() && said.front() == r.answers.front();
}

constexpr std::string_view kMarks = "\n:\"'.,?!{}";

double Word(std::string_view prediction, const References& r) {
  return Contains(SplitSpace(Blanked(prediction, kMarks)), r.answers.front());
}

double DialogueName(std::string_view prediction, const References& r) {
  std::string text = Blanked(prediction, kMarks);
  std::transform(text.begin(), text.end(), text.begin(), Upper);
  return Contains(SplitSpace(text), r.answers.front());
}

std::string SingleSpaced(std::string_view text) {
  std::string joined;
  for (const std::string& word : SplitSpace(text)) joined += (joined.empty() ? "" : " ") + word;
  return joined;
}

// What stands behind the first of the phrases that is there, without the blank between; empty if
// none is.
std::optional<std::string> Behind(const std::string& text,
                                  std::initializer_list<std::string_view> phrases) {
  for (const std::string_view phrase : phrases) {
    const size_t at = text.find(phrase);
    if (at == std::string::npos) continue;
    const size_t begin = at + phrase.size() + 1;
    return begin < text.size() ? text.substr(begin) : "";
  }
  return std::nullopt;
}

bool StartsWithAny(const std::string& text, const std::vector<std::string>& answers) {
  return std::any_of(answers.begin(), answers.end(),
                     [&](const std::string& a) { return text.starts_with(a); });
}

// A completion begins with a blank, the answer of a chat does not.
std::string_view WithoutBlanks(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of(" \n"), text.size()));
}

// InfiniteBench: the letter of an option, or its text.
double Choice(std::string_view prediction, const References& r) {
  prediction = WithoutBlanks(prediction);
  constexpr std::string_view kLetters = "ABCD";
  const auto is_letter = [&](std::string_view word) {
    return word.size() == 1 && kLetters.find(word[0]) != std::string_view::npos;
  };
  if (prediction.empty()) return 0;
  if (is_letter(prediction.substr(0, 1))) {
    return Contains(r.answers, prediction.substr(0, 1));
  }
  const std::string text = SingleSpaced(Blanked(prediction, "\n\"'.,?!{}"));
  if (const auto behind = Behind(text, {"answer is:", "answer:", "answer is", "option is"})) {
    return StartsWithAny(*behind, r.answers);
  }
  for (const std::string& word : SplitSpace(text)) {
    if (is_letter(word)) return Contains(r.answers, word);
  }
  return 0;
}

// InfiniteBench: answers are the function's name and the letter of its option.
double CodeDebug(std::string_view prediction, const References& r) {
  prediction = WithoutBlanks(prediction);
  const std::string& letter = r.answers.back();
  if (prediction.starts_with(letter + ".") || prediction.starts_with(letter + ":")) return 1;
  std::string text = Blanked(prediction, "\n`'\"-*");
  for (const std::string_view option : {"Option", "option"}) {
    for (size_t at; (at = text.find(option)) != std::string::npos;) {
      text.replace(at, option.size(), " ");
    }
  }
  const auto behind = Behind(SingleSpaced(text), {"answer is:", "is:", "answer:"});
  return behind.has_value() && StartsWithAny(*behind, r.answers);
}

double CodeRun(std::string_view prediction, const References& r) {
  const Words words = SplitSpace(Blanked(prediction, "\n.`'\":"));
  return !words.empty() && words.back() == r.answers.front();
}

// The first number, with or without a fraction, has the right value.
double MathFind(std::string_view prediction, const References& r) {
  const auto begin = std::find_if(prediction.begin(), prediction.end(), IsDigit);
  double found = 0, expected = 0;
  const std::string& answer = r.answers.front();
  const auto parse = [](const char* first, const char* last, double* value) {
    return std::from_chars(first, last, *value, std::chars_format::fixed).ec == std::errc();
  };
  return parse(prediction.data() + (begin - prediction.begin()),
               prediction.data() + prediction.size(), &found) &&
         parse(answer.data(), answer.data() + answer.size(), &expected) && found == expected;
}

// Numbers in the right order, up to the first wrong one.
double MathCalc(std::string_view prediction, const References& r) {
  const Words said = Numbers(prediction);
  size_t right = 0;
  while (right < std::min(said.size(), r.answers.size()) && said[right] == r.answers[right])
    ++right;
  return static_cast<double>(right) / static_cast<double>(r.answers.size());
}

constexpr MetricEntry kMetrics[] = {
    {"prefix", "the answer begins with a reference, to the character", Prefix},
    {"match_all", "RULER: share of the references that are in the answer", MatchAll},
    {"match_any", "RULER, question answering: one of the references is in the answer", MatchAny},
    {"qa_f1", "LongBench, InfiniteBench: F1 of the words", QaF1},
    {"qa_f1_zh", "InfiniteBench: F1 of the characters", QaF1Characters},
    {"rouge_1", "H2O: F1 of the words", Rouge1},
    {"rouge_2", "H2O: F1 of the pairs of words", Rouge2},
    {"rouge_l", "LongBench, H2O: F1 of longest common subsequences of words", RougeOfSentences},
    {"rouge_lsum", "InfiniteBench: F1 of the same by lines, in lower case, without punctuation",
     RougeOfLines},
    {"edit", "LongBench, code: edit similarity of the first line", Edit},
    {"classification", "LongBench: the right class is named, and no other", Classification},
    {"count", "LongBench: share of the numbers said that are right", Count},
    {"retrieval", "LongBench: the same of the number of a paragraph", Retrieval},
    {"first_number", "InfiniteBench: the first number is the right one", FirstNumber},
    {"word", "InfiniteBench: the reference is one of the words", Word},
    {"dialogue", "InfiniteBench: the same in capitals", DialogueName},
    {"choice", "InfiniteBench: letter or text of the right option", Choice},
    {"code_debug", "InfiniteBench: the function with the fault", CodeDebug},
    {"code_run", "InfiniteBench: the last word is the right value", CodeRun},
    {"math_find", "InfiniteBench: the first number has the right value", MathFind},
    {"math_calc", "InfiniteBench: share of the results before the first wrong one", MathCalc},
};

}  // namespace

std::span<const MetricEntry> Metrics() { return kMetrics; }

Result<const MetricEntry*> FindMetric(std::string_view name) {
  std::string known;
  for (const MetricEntry& entry : kMetrics) {
    if (entry.name == name) return &entry;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  return Status::InvalidArgument("unknown metric '" + std::string(name) +
                                 "', expected one of: " + known);
}

}  // namespace pqcache::tools
