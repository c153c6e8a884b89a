// The report as a page: complete, alone, well formed, and its numbers those of metrics.json.

#include "tools/report/page.h"

#include <gtest/gtest.h>

#include <cmath>

#include "pqcache/base/file_io.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tools/report/charts.h"

namespace pqcache::tools {
namespace {

using testing::ExpectError;
using testing::TempDir;

Json Row(const std::string& task, const std::string& policy, double budget, int64_t ctx,
         double score) {
  Json row, itl;
  row.Set("task", task).Set("policy", policy).Set("budget", budget < 0 ? Json() : Json(budget));
  row.Set("ctx", ctx).Set("depth", Json()).Set("samples", 20);
  row.Set("score", task == "ppl" ? Json() : Json(score));
  row.Set("ppl", task == "ppl" ? Json(score) : Json());
  row.Set("ttft_ms", 1234.5).Set("tpot_ms", 6.25).Set("kv_bytes_resident", 5.5e6);
  row.Set("flops_per_token", 2.5e7).Set("selected_ratio", 0.037);
  Json layer;
  layer.Set("recall", 0.5).Set("mass", 0.75).Set("output_error", 0.125);
  Json with_heads = layer;
  with_heads.Set("heads", Json(Json::Array{layer, layer}));
  row.Set("layers", Json(Json::Array{with_heads, with_heads}));
  return row;
}

RunFolder SomeRun() {
  RunFolder run;
  run.name = "run <1> & more";
  run.config.Set("model", "a \"model\"").Set("n_sink", 16).Set("local_window", 256);
  for (const char* task : {"needle", "ppl"}) {
    run.rows.push_back(Row(task, "exact", -1, 4096, 0.987));
    for (const double budget : {0.02, 0.1}) {
      run.rows.push_back(Row(task, "pq", budget, 4096, 0.9123 + budget));
      run.rows.push_back(Row(task, "h2o:ratio=<b>", budget, 4096, 0.3456 + budget));
    }
  }
  Json scores, turn, line;
  scores.Set("prefix", 1.0);
  turn.Set("scores", scores);
  line.Set("task", "needle").Set("policy", "pq").Set("budget", 0.02).Set("ctx", 4096);
  line.Set("sample_depth", 0.5).Set("turns", Json(Json::Array{turn}));
  run.predictions.push_back(line);
  return run;
}

// Every element that is opened is closed, in order.
void ExpectWellFormed(const std::string& html) {
  const std::vector<std::string> empty = {"meta", "line", "path", "rect", "!doctype"};
  std::vector<std::string> open;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    ASSERT_NE(end, std::string::npos);
    std::string tag = html.substr(at + 1, end - at - 1);
    ASSERT_EQ(std::count(tag.begin(), tag.end(), '"') % 2, 0) << tag;
    if (tag[0] == '/') {
      ASSERT_FALSE(open.empty()) << tag;
      ASSERT_EQ("/" + open.back(), tag);
      open.pop_back();
      continue;
    }
    const bool closed = tag.back() == '/';
    tag = tag.substr(0, tag.find_first_of(" /"));
    if (!closed && std::find(empty.begin(), empty.end(), tag) == empty.end()) open.push_back(tag);
  }
  EXPECT_TRUE(open.empty()) << open.back();
}

TEST(ReportPage, HoldsTheNumbersOfTheRun) {
  const RunFolder run = SomeRun();
  const std::string html = MakePage(std::span(&run, 1));
  ExpectWellFormed(html);
  for (const Json& row : run.rows) {
    const Json* score = row.Find("score");
    const double value = (score->is_null() ? row.Find("ppl") : score)->AsDouble();
    EXPECT_NE(html.find("<td>" + ShortNumber(value, 5) + "</td>"), std::string::npos) << value;
  }
  for (const char* number : {"1234.5", "6.25", "5.5", "25", "3.7"}) {
    EXPECT_NE(html.find("<td>" + std::string(number) + "</td>"), std::string::npos) << number;
  }
  EXPECT_NE(html.find("Where answers are found"), std::string::npos);
  EXPECT_NE(html.find("output error by layer"), std::string::npos);
  EXPECT_NE(html.find("pq: output error, % of"), std::string::npos);
}

TEST(ReportPage, NeedsNothingFromElsewhereAndShowsTextAsText) {
  const RunFolder run = SomeRun();
  const std::string html = MakePage(std::span(&run, 1));
  for (const char* outside : {"http", "<script", "<link", "@import", "url(", "src="}) {
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  }
  EXPECT_EQ(html.find("<b>"), std::string::npos);
  EXPECT_NE(html.find("h2o:ratio=&lt;b&gt;"), std::string::npos);
  EXPECT_NE(html.find("run &lt;1&gt; &amp; more"), std::string::npos);
  EXPECT_LT(html.size(), size_t{1} << 20);
}

TEST(ReportPage, OneBudgetAndSeveralContexts) {
  RunFolder run;
  run.name = "run";
  run.config.Set("model", "m");
  for (const int64_t ctx : {4096, 8192}) run.rows.push_back(Row("needle", "pq", -1, ctx, 1));
  const std::string html = MakePage(std::span(&run, 1));
  ExpectWellFormed(html);
  EXPECT_NE(html.find("tokens of context"), std::string::npos);
}

TEST(ReportPage, FoldersThatHoldNoRunAreNamed) {
  TempDir dir;
  ExpectError(ReadRunFolder(dir.path()), StatusCode::kNotFound, "config.json");
  ASSERT_OK(WriteFileAtomically(dir.path() + "/config.json", "{\"model\": \"m\"}"));
  ASSERT_OK(WriteFileAtomically(dir.path() + "/metrics.json", "{\"results\": []}"));
  ExpectError(ReadRunFolder(dir.path()), StatusCode::kInvalidArgument, "no results");
}

TEST(Charts, Numbers) {
  EXPECT_EQ(ShortNumber(0), "0");
  EXPECT_EQ(ShortNumber(1234.5678), "1235");
  EXPECT_EQ(ShortNumber(12.345), "12.3");
  EXPECT_EQ(ShortNumber(0.012345), "0.0123");
  EXPECT_EQ(ShortNumber(5), "5");
  EXPECT_EQ(ShortNumber(100), "100");
  EXPECT_EQ(ShortNumber(-2.50), "-2.5");
  EXPECT_EQ(ShortNumber(NAN), "-");
}

}  // namespace
}  // namespace pqcache::tools
