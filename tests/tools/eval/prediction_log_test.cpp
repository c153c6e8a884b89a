// Results of a run: what is written can be read, summed up, and gone on with.

#include "tools/eval/prediction_log.h"

#include <gtest/gtest.h>

#include <cmath>

#include "pqcache/base/file_io.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::tools {
namespace {

using testing::ExpectError;
using testing::TempDir;

SampleResult Answered(const std::string& policy, int64_t sample, double first, double second) {
  SampleResult r;
  r.key = {"needle", 4096, -1, sample, policy, 0.02};
  r.sample_depth = 0.25;
  r.turns = {{"42", " 42\n\"quoted\"", {{"prefix", first}}}, {"7", "8", {{"prefix", second}}}};
  r.prefill_ms = 100;
  r.first_ms = 10 + static_cast<double>(sample);
  r.gaps_ms = {1, 3};
  r.resident_bytes = 1000;
  r.flops_per_token = 5e6;
  r.attended = 50;
  r.context = 4000;
  r.judged = {{{0.4, 0.9, 0.1}, {0.6, 0.9, 0.1}}, {{0.7, 0.8, 0.3}, {0.7, 0.8, 0.1}}};
  return r;
}

SampleResult Perplexity(int64_t sample, double loss) {
  SampleResult r;
  r.key = {"ppl", 4096, -1, sample, "exact", -1};
  r.loss = loss;
  r.attended = r.context = 4096;
  return r;
}

double Number(const Json& row, const char* key) { return row.Find(key)->AsDouble(); }

TEST(Results, LinesKeepEverything) {
  SampleResult r = Answered("pq", 3, 1, 0);
  r.truncated = true;
  r.turns[0].stopped = true;
  r.source.Set("prompt", "text");
  const auto read = SampleResult::FromJson(*Json::Parse(r.ToJson().Dump()));
  ASSERT_OK(read);
  EXPECT_EQ(read->ToJson().Dump(), r.ToJson().Dump());
  EXPECT_EQ(read->key, r.key);
  EXPECT_EQ(read->turns[0].predicted, " 42\n\"quoted\"");
  ExpectError(SampleResult::FromJson(*Json::Parse(R"({"task": "x"})")),
              StatusCode::kInvalidArgument, "ctx");
}

TEST(Results, RowsAreMeansOfLines) {
  const std::vector<SampleResult> results = {Answered("pq", 0, 1, 0), Answered("h2o", 0, 0, 0),
                                             Answered("pq", 1, 1, 1), Perplexity(0, std::log(10.0)),
                                             Perplexity(1, std::log(40.0))};
  const Json rows = SummariseResults(results);
  ASSERT_EQ(rows.AsArray().size(), 3u);
  const Json& pq = rows.AsArray()[0];
  EXPECT_EQ(pq.Find("policy")->AsString(), "pq");
  EXPECT_EQ(pq.Find("samples")->AsInt(), 2);
  EXPECT_DOUBLE_EQ(Number(pq, "score"), 0.75);
  EXPECT_DOUBLE_EQ(pq.Find("score_by_turn")->AsArray()[0].AsDouble(), 1.0);
  EXPECT_DOUBLE_EQ(pq.Find("score_by_turn")->AsArray()[1].AsDouble(), 0.5);
  EXPECT_DOUBLE_EQ(Number(pq, "ttft_ms"), 110.5);
  EXPECT_DOUBLE_EQ(Number(pq, "tpot_ms"), 2);
  EXPECT_DOUBLE_EQ(Number(pq, "tokens_per_second"), 500);
  EXPECT_DOUBLE_EQ(Number(*pq.Find("itl_ms"), "median"), 1);
  EXPECT_DOUBLE_EQ(Number(*pq.Find("itl_ms"), "p99"), 3);
  EXPECT_DOUBLE_EQ(Number(pq, "selected_ratio"), 50.0 / 4000);
  EXPECT_DOUBLE_EQ(Number(pq, "recall"), 0.6);
  const Json& layer = pq.Find("layers")->AsArray()[1];
  EXPECT_DOUBLE_EQ(Number(layer, "output_error"), 0.2);
  EXPECT_DOUBLE_EQ(Number(layer.Find("heads")->AsArray()[0], "output_error"), 0.3);
  const Json& exact = rows.AsArray()[2];
  EXPECT_NEAR(Number(exact, "ppl"), 20, 1e-9);
  EXPECT_TRUE(exact.Find("score")->is_null());
  EXPECT_TRUE(exact.Find("ttft_ms")->is_null());  // nothing was decoded
  EXPECT_NE(ResultTable(rows).find("20.000"), std::string::npos);
}

Json Config(int seed) {
  Json config;
  return config.Set("seed", seed);
}

TEST(PredictionLog, AnInterruptedRunGoesOn) {
  TempDir dir;
  const std::string folder = dir.path() + "/run", path = folder + "/predictions.jsonl";
  {
    const auto log = PredictionLog::Open(folder, Config(1), false);
    ASSERT_OK(log);
    ASSERT_OK((*log)->Add(Answered("pq", 0, 1, 0)));
    ASSERT_OK((*log)->Add(Answered("h2o", 0, 1, 0)));
  }
  std::string text = *ReadFile(path, 1 << 20);
  text.resize(text.size() - 20);  // the second line was not written to its end
  ASSERT_OK(WriteFileAtomically(path, text));
  {
    const auto log = PredictionLog::Open(folder, Config(1), false);
    ASSERT_OK(log);
    ASSERT_EQ((*log)->results().size(), 1u);
    EXPECT_TRUE((*log)->Has(Answered("pq", 0, 1, 0).key));
    EXPECT_FALSE((*log)->Has(Answered("h2o", 0, 1, 0).key));
    ASSERT_OK((*log)->Add(Answered("h2o", 0, 0, 0)));
    ASSERT_OK((*log)->Finish(SummariseResults((*log)->results())));
  }
  const auto log = PredictionLog::Open(folder, Config(1), false);
  ASSERT_OK(log);
  EXPECT_EQ((*log)->results().size(), 2u);
  EXPECT_EQ(SummariseResults((*log)->results()).Dump(1) + "\n",
            *ReadFile(folder + "/metrics.json", 1 << 20));
}

TEST(PredictionLog, AnotherRunsFolderIsLeftAlone) {
  TempDir dir;
  const std::string folder = dir.path() + "/run";
  ASSERT_OK((*PredictionLog::Open(folder, Config(1), false))->Add(Answered("pq", 0, 1, 0)));
  ExpectError(PredictionLog::Open(folder, Config(2), false), StatusCode::kInvalidArgument,
              "its seed is 1, of this one 2");
  EXPECT_EQ((*PredictionLog::Open(folder, Config(1), false))->results().size(), 1u);
  EXPECT_EQ((*PredictionLog::Open(folder, Config(2), true))->results().size(), 0u);
}

TEST(PredictionLog, AFolderWithoutResultsIsNobodys) {
  TempDir dir;
  const std::string folder = dir.path() + "/run";
  ASSERT_OK(PredictionLog::Open(folder, Config(1), false));
  EXPECT_OK(PredictionLog::Open(folder, Config(2), false));
}

TEST(PredictionLog, ARunThatBeginsAnewLeavesNothingOfTheOldOne) {
  TempDir dir;
  const std::string folder = dir.path() + "/run";
  {
    const auto log = PredictionLog::Open(folder, Config(1), false);
    SampleResult r = Answered("pq", 0, 1, 0);
    r.source.Set("prompt", "Summarize.");
    ASSERT_OK((*log)->Add(r));
    ASSERT_OK((*log)->Finish(Json::Array()));
  }
  ASSERT_OK(WriteFileAtomically(folder + "/helm-notes.jsonl", "mine"));
  ASSERT_OK(PredictionLog::Open(folder, Config(2), true));
  const auto missing = [&](const char* name) {
    return ReadFile(folder + "/" + name, 1 << 20).status().code() == StatusCode::kNotFound;
  };
  EXPECT_TRUE(missing("metrics.json"));
  EXPECT_TRUE(missing("helm/needle-4096-pq-0.02.jsonl"));
  EXPECT_EQ(*ReadFile(folder + "/helm-notes.jsonl", 1 << 20), "mine");
}

TEST(PredictionLog, RequestsAreAnsweredInHelmsForm) {
  TempDir dir;
  const auto log = PredictionLog::Open(dir.path(), Config(1), false);
  ASSERT_OK(log);
  SampleResult r = Answered("h2o:ratio=0.2", 0, 1, 0);
  r.turns.pop_back();
  r.turns[0].stopped = true;
  r.source.Set("prompt", "Summarize.").Set("max_tokens", 5).Set("temperature", 0.0);
  ASSERT_OK((*log)->Add(r));
  r.key.ctx = 8192;  // the same request under other conditions
  r.turns[0].stopped = false;
  ASSERT_OK((*log)->Add(r));
  ASSERT_OK((*log)->Finish(Json::Array()));
  const auto line_of = [&](const char* name) {
    const std::string text = *ReadFile(dir.path() + "/" + name, 1 << 20);
    EXPECT_NE(text.find(R"("temperature":0.0})"), std::string::npos) << text;
    return *Json::Parse(text);
  };
  const Json line = line_of("helm/needle-4096-h2o_ratio_0.2-0.02.jsonl");
  EXPECT_EQ(line.Find("request")->Dump(), r.source.Dump());
  const Json& choice = line.Find("result")->Find("choices")->AsArray().front();
  EXPECT_EQ(choice.Find("text")->AsString(), " 42\n\"quoted\"");
  EXPECT_EQ(choice.Find("finish_reason")->AsString(), "stop");
  const Json other = line_of("helm/needle-8192-h2o_ratio_0.2-0.02.jsonl");
  EXPECT_EQ(other.Find("result")->Find("choices")->AsArray().front().Find("finish_reason")->Dump(),
            "\"length\"");
}

}  // namespace
}  // namespace pqcache::tools
