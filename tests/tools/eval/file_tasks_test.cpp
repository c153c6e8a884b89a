// Files as the benchmarks ship them.

#include "tools/eval/file_tasks.h"

#include <gtest/gtest.h>

#include "pqcache/base/file_io.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::tools {
namespace {

using testing::ExpectError;
using testing::TempDir;

class FileTasksTest : public ::testing::Test {
 protected:
  Result<std::vector<TextSample>> Read(const std::string& task, const std::string& lines,
                                       int64_t limit = 0) {
    const std::string path = dir_.path() + "/data.jsonl";
    EXPECT_OK(WriteFileAtomically(path, lines));
    return ReadTaskFile(ParseSpec(task).value(), path, limit);
  }
  TextSample One(const std::string& task, const std::string& line) {
    auto samples = Read(task, line + "\n");
    EXPECT_OK(samples);
    EXPECT_EQ(samples->size(), 1u);
    return samples->front();
  }

  TempDir dir_;
};

TEST_F(FileTasksTest, Ruler) {
  const std::string line =
      R"({"index": 0, "input": "Some text.\nMore of it.\nWhat is the number? The number is",)"
      R"( "outputs": ["123", "456"], "length": 4096, "answer_prefix": " surely"})";
  const TextSample sample = One("ruler", line);
  EXPECT_EQ(sample.context, "Some text.\nMore of it.");
  EXPECT_EQ(sample.question, "\nWhat is the number? The number is surely");
  EXPECT_EQ(sample.references.answers, (std::vector<std::string>{"123", "456"}));
  EXPECT_EQ(sample.metrics, std::vector<std::string>{"match_all"});
  EXPECT_EQ(One("ruler:metric=match_any,max_tokens=32", line).metrics.front(), "match_any");
  EXPECT_EQ(One("ruler:max_tokens=32", line).max_tokens, 32);
}

TEST_F(FileTasksTest, LongBench) {
  const auto line = [](const std::string& dataset, const std::string& classes) {
    return R"({"input": "Who?", "context": "A story.", "answers": ["Ann", "Anna"], "length": 3,)"
           R"( "dataset": ")" +
           dataset + R"(", "language": "en", "all_classes": )" + classes + R"(, "_id": "x"})";
  };
  const TextSample qa = One("longbench", line("hotpotqa", "null"));
  EXPECT_EQ(qa.context, "A story.");
  EXPECT_EQ(qa.question, "\n\nQuestion: Who?\nAnswer:");
  EXPECT_EQ(qa.metrics.front(), "qa_f1");
  EXPECT_EQ(qa.max_tokens, 32);
  EXPECT_TRUE(qa.stops.empty());
  const TextSample trec = One("longbench", line("trec_e", R"(["Food", "Date"])"));
  EXPECT_EQ(trec.metrics.front(), "classification");
  EXPECT_EQ(trec.references.classes, (std::vector<std::string>{"Food", "Date"}));
  EXPECT_EQ(trec.stops, std::vector<std::string>{"\n"});  // the first line counts
  ExpectError(Read("longbench", line("dureader", "null")), StatusCode::kInvalidArgument,
              "line 1: dataset is 'dureader', expected one of: narrativeqa");
}

TEST_F(FileTasksTest, InfiniteBench) {
  const TextSample kv = One(
      "infinitebench:task=kv_retrieval",
      R"({"id": 0, "context": "{...}", "input": "Key: \"a\"", "answer": ["b"], "options": []})");
  EXPECT_EQ(kv.question, "\nKey: \"a\"");
  EXPECT_EQ(kv.metrics.front(), "word");
  const TextSample choice =
      One("infinitebench:task=longbook_choice_eng",
          R"({"id": 0, "context": "A book.", "input": "Who?", "answer": ["Bo"],)"
          R"( "options": ["Al", "Bo", "Cy", "Di"]})");
  EXPECT_EQ(choice.references.answers, (std::vector<std::string>{"Bo", "B"}));
  EXPECT_NE(choice.question.find("B. Bo"), std::string::npos);
  const TextSample math = One("infinitebench:task=math_find",
                              R"({"id": 0, "context": "1 2", "input": "Largest?", "answer": 2})");
  EXPECT_EQ(math.references.answers, std::vector<std::string>{"2"});
  ExpectError(Read("infinitebench", R"({"context": "", "input": "", "answer": "x"})"),
              StatusCode::kInvalidArgument, "infinitebench:task is ''");
  ExpectError(Read("infinitebench:task=code_debug",
                   R"({"context": "", "input": "", "answer": ["f"], "options": ["g", "h"]})"),
              StatusCode::kInvalidArgument, "'options' do not hold the answer 'f'");
}

TEST_F(FileTasksTest, SummariesOfHelmAndOfH2o) {
  const TextSample helm =
      One("summarization",
          R"({"request": {"prompt": "Article: a b c.\nSummarize in one sentence.", "temperature":)"
          R"( 0.3, "max_tokens": 40, "stop": ["###"], "n": 1}, "reference": "A, b and c."})");
  EXPECT_EQ(helm.context, "Article: a b c.");
  EXPECT_EQ(helm.question, "\nSummarize in one sentence.");
  EXPECT_EQ(helm.max_tokens, 40);
  EXPECT_EQ(helm.stops, std::vector<std::string>{"###"});
  EXPECT_EQ(helm.metrics, (std::vector<std::string>{"rouge_l", "rouge_1", "rouge_2"}));
  EXPECT_EQ(helm.source.Find("prompt")->AsString(), "Article: a b c.\nSummarize in one sentence.");
  const TextSample h2o = One("summarization:max_tokens=9",
                             R"({"article": "###\nArticle: x y.\n\nSummary:", "summary_gt": "xy",)"
                             R"( "temperature": 0.3, "stop": ["###"], "max_tokens": 64})");
  EXPECT_EQ(h2o.context + h2o.question, "###\nArticle: x y.\n\nSummary:");
  EXPECT_EQ(h2o.max_tokens, 9);
  const TextSample plain = One("summarization", R"({"article": "x y.", "summary": "xy"})");
  EXPECT_EQ(plain.question, "\n\nSummary:");
}

TEST_F(FileTasksTest, MultipleChoice) {
  EXPECT_OK(WriteFileAtomically(dir_.path() + "/shots.txt", "Two examples.\n\n"));
  const TextSample sample = One("multiple_choice:shots=" + dir_.path() + "/shots.txt",
                                R"({"question": "2 + 2?", "choices": ["3", 4, "5"], "answer": 1})");
  EXPECT_EQ(sample.context, "Two examples.\n\n");
  EXPECT_EQ(sample.question, "Question: 2 + 2?\nA. 3\nB. 4\nC. 5\nAnswer:");
  EXPECT_EQ(sample.choices, (std::vector<std::string>{" A", " B", " C"}));
  EXPECT_EQ(sample.references.answers, std::vector<std::string>{" B"});
  const auto letter = [&](const std::string& answer) {
    return Read("multiple_choice",
                R"({"question": "q", "choices": ["x", "y"], "answer": )" + answer + "}\n");
  };
  EXPECT_EQ(letter(R"("A")")->front().references.answers.front(), " A");
  ExpectError(letter("2"), StatusCode::kInvalidArgument, "'answer' is not one of 2 choices");
  ExpectError(letter(R"("AB")"), StatusCode::kInvalidArgument, "'answer'");
}

TEST_F(FileTasksTest, ErrorsNameTheLine) {
  const std::string good = R"({"input": "a\nb", "outputs": ["c"]})";
  ExpectError(Read("ruler", good + "\n\n{\"input\": 5}\n"), StatusCode::kInvalidArgument,
              "data.jsonl, line 3");
  ExpectError(Read("ruler", good + "\n{\"input\": \"x\"}\n"), StatusCode::kInvalidArgument,
              "'outputs' is absent");
  ExpectError(Read("ruler", good + "\n{broken\n"), StatusCode::kCorruption, "line 2");
  ExpectError(Read("ruler", "\n \n"), StatusCode::kInvalidArgument, "has no samples");
  ExpectError(Read("ruler:depth=3", good), StatusCode::kInvalidArgument, "unknown parameter");
  EXPECT_EQ(Read("ruler", good + "\n" + good + "\n" + good, 2)->size(), 2u);
}

TEST_F(FileTasksTest, LongContextsLoseTheirMiddle) {
  const auto tokenizer = attention::Tokenizer::Load(std::string(PQCACHE_SOURCE_DIR) +
                                                    "/tools/demo/model/tokenizer.json");
  ASSERT_OK(tokenizer);
  TextSample text;
  for (int i = 0; i < 300; ++i) text.context += "word" + std::to_string(i) + " ";
  text.question = "\nWhich?";
  text.references.answers = {"x"};
  text.metrics = {"qa_f1"};
  text.max_tokens = 10;
  const auto whole = Tokenise(text, 100000, *tokenizer);
  ASSERT_OK(whole);
  EXPECT_FALSE(whole->truncated);
  const auto cut = Tokenise(text, 200, *tokenizer);
  ASSERT_OK(cut);
  EXPECT_TRUE(cut->truncated);
  const auto asked = std::ssize(cut->questions.front().tokens);
  EXPECT_EQ(std::ssize(cut->context) + asked + 10, 200);
  EXPECT_EQ(cut->context.front(), whole->context.front());
  EXPECT_EQ(cut->context.back(), whole->context.back());
  ExpectError(Tokenise(text, asked + 11, *tokenizer), StatusCode::kInvalidArgument,
              "room for a context");
}

}  // namespace
}  // namespace pqcache::tools
