// Worked examples: what the benchmarks' own scorers give.

#include "tools/eval/metrics.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/status_matchers.h"

namespace pqcache::tools {
namespace {

double Score(const std::string& metric, const std::string& prediction,
             const std::vector<std::string>& answers,
             const std::vector<std::string>& classes = {}) {
  return FindMetric(metric).value()->score(prediction, {answers, classes});
}

TEST(Metrics, Prefix) {
  EXPECT_EQ(Score("prefix", " 71432. Remember", {" 71432"}), 1);
  EXPECT_EQ(Score("prefix", "71432", {" 71432"}), 0);
}

TEST(Metrics, Ruler) {
  EXPECT_EQ(Score("match_all", "They are ALPHA and beta.", {"alpha", "Beta", "gamma", "delta"}),
            0.5);
  EXPECT_EQ(Score("match_any", "in Paris, I think", {"London", "paris"}), 1);
  EXPECT_EQ(Score("match_any", "in Rome", {"London", "paris"}), 0);
}

TEST(Metrics, QuestionAnswering) {
  EXPECT_EQ(Score("qa_f1", "The cat, sat!", {"a cat sat"}), 1);
  EXPECT_DOUBLE_EQ(Score("qa_f1", "the black cat", {"white cat", "dog"}), 0.5);
  EXPECT_DOUBLE_EQ(Score("qa_f1", "cat cat cat", {"cat cat"}), 0.8);  // counted, not once
  EXPECT_EQ(Score("qa_f1", "", {"x"}), 0);
  EXPECT_DOUBLE_EQ(
      Score("qa_f1_zh", "\xe5\x8c\x97\xe4\xba\xac \xe5\xb8\x82", {"\xe5\x8c\x97\xe4\xba\xac"}),
      0.8);  // two of three characters
}

// Expected values are those of the packages `rouge` 1.0.1 and `rouge_score` 0.1.2.
TEST(Metrics, RougeOfLongBenchAndH2o) {
  const auto expect = [](const char* prediction, const char* reference, double one, double two,
                         double longest) {
    SCOPED_TRACE(prediction);
    EXPECT_NEAR(Score("rouge_1", prediction, {reference}), one, 1e-7);
    EXPECT_NEAR(Score("rouge_2", prediction, {reference}), two, 1e-7);
    EXPECT_NEAR(Score("rouge_l", prediction, {reference}), longest, 1e-7);
  };
  // Case counts, the full stop does not, and "the" counts once.
  expect("The cat sat on the mat.", "the cat sat on the mat", 10.0 / 11, 0.8, 10.0 / 11);
  // Sentences in another order have their longest common subsequences still.
  expect("the dog barked. the cat slept.", "the cat slept. the dog barked.", 1, 0.8, 1);
  // A line break ends no sentence.
  expect("the cat\non the mat", "the mat the cat sat on", 8.0 / 9, 4.0 / 9, 2.0 / 3);
  expect("budgets, overall, rose", "budgets overall rose", 1.0 / 3, 0, 1.0 / 3);
  expect("the cat quickly. on mat", "the cat sat on the mat", 0.8, 2.0 / 9, 0.8);
  expect("", "the cat", 0, 0, 0);
  // Of two longest common subsequences, the one that holds both words.
  expect("c a c", "c c a", 1, 0.5, 1);
  expect("the cat. ", "the cat", 0.8, 2.0 / 3, 0.8);  // a sentence of a blank is a word
  EXPECT_EQ(Score("rouge_1", "the cat", {"a dog", "the cat"}), 1);
}

TEST(Metrics, RougeOfInfiniteBench) {
  const auto score = [](const char* prediction, const char* reference) {
    return Score("rouge_lsum", prediction, {reference});
  };
  EXPECT_EQ(score("The cat sat on the mat.", "the cat sat on the mat"), 1);
  EXPECT_EQ(score("budgets, overall, rose", "budgets overall rose"), 1);
  // One line, so what is common keeps its order; as lines, it need not.
  EXPECT_DOUBLE_EQ(score("the dog barked. the cat slept.", "the cat slept. the dog barked."), 0.5);
  EXPECT_EQ(score("the dog barked\nthe cat slept", "the cat slept\nthe dog barked"), 1);
  EXPECT_DOUBLE_EQ(score("the cat\non the mat", "the mat the cat sat on"), 8.0 / 11);
  // Of two longest common subsequences, the one that ends first in the reference; and no word
  // counts more often than it is said.
  EXPECT_DOUBLE_EQ(score("c \na b", "a \nb a"), 2.0 / 3);
  EXPECT_DOUBLE_EQ(score("b\nc a", "c\n c"), 0.4);
  EXPECT_EQ(score("", "the cat"), 0);
}

TEST(Metrics, CodeSimilarity) {
  EXPECT_EQ(Score("edit", "\n\n# a comment\nreturn x + 1\nmore", {"return x + 1"}), 1);
  // 2 * 11 of 11 + 12 characters.
  EXPECT_DOUBLE_EQ(Score("edit", "return x +1", {"return x + 1"}), 0.96);
  EXPECT_EQ(Score("edit", "// nothing", {"return"}), 0);
}

TEST(Metrics, Classification) {
  const std::vector<std::string> classes = {"Food", "Date", "Human", "Human group"};
  EXPECT_EQ(Score("classification", "Type: Food", {"Food"}, classes), 1);
  EXPECT_EQ(Score("classification", "Food or Date", {"Food"}, classes), 0.5);
  EXPECT_EQ(Score("classification", "Human group", {"Human group"}, classes), 1);
  EXPECT_EQ(Score("classification", "Human group", {"Human"}, classes), 0.5);
  EXPECT_EQ(Score("classification", "none", {"Food"}, classes), 0);
}

TEST(Metrics, Numbers) {
  EXPECT_EQ(Score("count", "I count 12, maybe 13", {"12"}), 0.5);
  EXPECT_EQ(Score("retrieval", "Paragraph 7", {"Paragraph 7"}), 1);
  EXPECT_EQ(Score("retrieval", "Paragraph 7 or Paragraph 8", {"Paragraph 7"}), 0.5);
  EXPECT_EQ(Score("first_number", " 71432. 5", {"71432"}), 1);
  EXPECT_EQ(Score("first_number", "5 71432", {"71432"}), 0);
  EXPECT_EQ(Score("math_find", "It is 3.50!", {"3.5"}), 1);
  EXPECT_EQ(Score("math_find", "none", {"3.5"}), 0);
  EXPECT_DOUBLE_EQ(Score("math_calc", "1, 2, 4, 8", {"1", "2", "3", "8"}), 0.5);
  EXPECT_EQ(Score("code_run", "The return value is: `-7`.", {"-7"}), 1);
}

TEST(Metrics, InfiniteBenchWords) {
  EXPECT_EQ(Score("word", "\"it is\": 'abc-1'.", {"abc-1"}), 1);
  EXPECT_EQ(Score("word", "abc-12", {"abc-1"}), 0);
  EXPECT_EQ(Score("dialogue", "it was Harry.", {"HARRY"}), 1);
  const std::vector<std::string> right = {"B", "the second one"};
  EXPECT_EQ(Score("choice", "B. the second one", right), 1);
  EXPECT_EQ(Score("choice", "A", right), 0);
  EXPECT_EQ(Score("choice", "I say the answer is: B", right), 1);
  EXPECT_EQ(Score("choice", "surely the option is the second one", right), 1);
  EXPECT_EQ(Score("choice", "well , C or B", right), 0);
  EXPECT_EQ(Score("choice", "", right), 0);
  const std::vector<std::string> fault = {"parse_line", "C"};
  EXPECT_EQ(Score("code_debug", "C. parse_line", fault), 1);
  EXPECT_EQ(Score("code_debug", "The answer is: Option C", fault), 1);
  EXPECT_EQ(Score("code_debug", "The answer is: `parse_line`", fault), 1);
  EXPECT_EQ(Score("code_debug", "The answer is: D", fault), 0);
  EXPECT_EQ(Score("code_debug", " C.", fault), 1);
  EXPECT_EQ(Score("choice", " B", right), 1);
}

TEST(Metrics, NamesAreUniqueAndUnknownOnesAreTold) {
  std::set<std::string_view> names;
  for (const MetricEntry& entry : Metrics()) EXPECT_TRUE(names.insert(entry.name).second);
  testing::ExpectError(FindMetric("bleu"), StatusCode::kInvalidArgument, "rouge_l");
}

}  // namespace
}  // namespace pqcache::tools
