#include "tools/eval/generated_tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace pqcache::tools {
namespace {

using testing::ExpectError;

class GeneratedTasksTest : public ::testing::Test {
 protected:
  GeneratedTasksTest()
      : tokenizer_(attention::Tokenizer::Load(std::string(PQCACHE_SOURCE_DIR) +
                                              "/tools/demo/model/tokenizer.json")
                       .value()),
        haystack_(LoadHaystack("", 5000, tokenizer_).value()) {}

  Result<EvalSample> Generate(const std::string& task, int64_t ctx, int turns = 1,
                              uint64_t seed = 1) {
    Random random(seed);
    TaskRequest request{&tokenizer_, haystack_, ctx, 0.5, turns, &random};
    PQCACHE_ASSIGN_OR_RETURN(const TaskEntry* entry, FindTask(task));
    return entry->generate(request);
  }
  std::string TextOf(const std::vector<int64_t>& tokens) {
    return tokenizer_.Decode(tokens, false).value();
  }
  static std::vector<std::string> FindAll(const std::string& text, const std::string& pattern) {
    const std::regex regex(pattern);
    std::vector<std::string> found;
    for (std::sregex_iterator i(text.begin(), text.end(), regex), end; i != end; ++i) {
      found.push_back((*i)[1]);
    }
    return found;
  }

  attention::Tokenizer tokenizer_;
  std::vector<int64_t> haystack_;
};

TEST_F(GeneratedTasksTest, FitTheContextHoldTheAnswerAndComeAgain) {
  for (const TaskEntry& task : GeneratedTasks()) {
    SCOPED_TRACE(std::string(task.name));
    const EvalSample sample = Generate(std::string(task.name), 3000).value();
    ASSERT_EQ(sample.questions.size(), 1u);
    const EvalQuestion& question = sample.questions[0];
    const int64_t size =
        std::ssize(sample.context) + std::ssize(question.tokens) + question.max_tokens - 2;
    EXPECT_LE(size, 3000);
    EXPECT_GT(size, 2800);
    EXPECT_NE(TextOf(sample.context).find(question.references.answers[0]), std::string::npos);
    const EvalSample same = Generate(std::string(task.name), 3000).value();
    EXPECT_EQ(same.context, sample.context);
    if (task.name == "copy") continue;  // of the haystack, which is all alike
    EXPECT_NE(Generate(std::string(task.name), 3000, 1, 2)->context, sample.context);
  }
}

constexpr char kNeedle[] = "special magic numbers for ([a-z-]+) is: [0-9]{7}\\.";
constexpr char kAsked[] = "special magic number for ([a-z-]+) mentioned";

TEST_F(GeneratedTasksTest, LookalikesAreAllNamesThatShareAWord) {
  const EvalSample sample = Generate("lookalikes", 3000).value();
  const std::string asked = FindAll(TextOf(sample.questions[0].tokens), kAsked).at(0);
  const size_t dash = asked.find('-');
  const std::string first = asked.substr(0, dash), second = asked.substr(dash + 1);
  EXPECT_NE(first, second);
  const std::vector<std::string> names = FindAll(TextOf(sample.context), kNeedle);
  // Of 8 words: two alone, and 8 * 8 - 6 * 6 pairs.
  EXPECT_EQ(names.size(), 30u);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  EXPECT_EQ(std::count(names.begin(), names.end(), asked), 1);
  for (const std::string& name : names) {
    EXPECT_TRUE(name.find(first) != std::string::npos || name.find(second) != std::string::npos);
  }
  // In the middle, with half of the others on either side.
  const auto place = std::find(names.begin(), names.end(), asked) - names.begin();
  EXPECT_NEAR(static_cast<double>(place), 15, 1);
}

TEST_F(GeneratedTasksTest, ManyNeedlesFillTheContext) {
  const EvalSample sample = Generate("many_needles", 3000).value();
  const std::vector<std::string> names = FindAll(TextOf(sample.context), kNeedle);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  const size_t needle =
      tokenizer_
          .Encode("\nOne of the special magic numbers for " + names[0] + " is: 8888888.\n", false)
          ->size();
  EXPECT_GT(names.size() * needle, 2200u);
  const std::string asked = FindAll(TextOf(sample.questions[0].tokens), kAsked).at(0);
  EXPECT_EQ(std::count(names.begin(), names.end(), asked), 1);
}

TEST_F(GeneratedTasksTest, KeysOfLookalikesDifferAtTheirEnd) {
  for (const char* task : {"kv_retrieval", "kv_lookalikes"}) {
    SCOPED_TRACE(task);
    const EvalSample sample = Generate(task, 3000).value();
    const std::vector<std::string> keys =
        FindAll(TextOf(sample.context), "\"([0-9a-f-]{36})\": \"[0-9a-f-]{36}\"");
    ASSERT_GT(keys.size(), 20u);
    EXPECT_EQ(std::set<std::string>(keys.begin(), keys.end()).size(), keys.size());
    const std::string asked =
        FindAll(TextOf(sample.questions[0].tokens), "\"([0-9a-f-]{36})\"").at(0);
    EXPECT_EQ(std::count(keys.begin(), keys.end(), asked), 1);
    size_t alike = 0;
    for (const std::string& key : keys) {
      alike += key.substr(0, key.rfind('-')) == asked.substr(0, asked.rfind('-')) ? 1 : 0;
    }
    EXPECT_EQ(alike, std::string(task) == "kv_lookalikes" ? keys.size() : 1u);
  }
}

TEST_F(GeneratedTasksTest, RefuseWhatTheyCannotDo) {
  for (const char* task : {"passkey", "lookalikes", "many_needles", "kv_lookalikes"}) {
    ExpectError(Generate(task, 3000, 2), StatusCode::kInvalidArgument, "has one question");
  }
  ExpectError(Generate("needle", 3000, 9), StatusCode::kInvalidArgument, "at most 8 questions");
  ExpectError(Generate("lookalikes", 300), StatusCode::kInvalidArgument, "without any filler");
  ExpectError(Generate("kv_retrieval", 60), StatusCode::kInvalidArgument, "--ctx is 60");
  ExpectError(FindTask("none"), StatusCode::kInvalidArgument, "many_needles");
}

}  // namespace
}  // namespace pqcache::tools
