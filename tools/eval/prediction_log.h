#pragma once

// predictions.jsonl of a run, line by line as results come, so that an interrupted run goes on
// where it stopped. One thread.

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "tools/eval/results.h"

namespace pqcache::tools {

class PredictionLog {
 public:
  // Without a folder, results are in memory only. A folder that holds results of another
  // configuration is refused, unless `overwrite`, which removes all that a run has written there;
  // one that holds this one is continued. A last line that was cut off is dropped.
  static Result<std::unique_ptr<PredictionLog>> Open(const std::string& folder, const Json& config,
                                                     bool overwrite);

  // Results of this run, those from before an interruption first.
  const std::vector<SampleResult>& results() const { return results_; }
  bool Has(const SampleKey& key) const;
  // The line is in the file when this returns.
  Status Add(SampleResult result);

  // metrics.json; and for samples with requests helm/TASK-CTX-POLICY-BUDGET.jsonl.
  Status Finish(const Json& metrics) const;

 private:
  explicit PredictionLog(std::string folder) : folder_(std::move(folder)) {}
  Status ReadLines(const std::string& path);

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string folder_;
  std::vector<SampleResult> results_;
  std::unique_ptr<std::FILE, Close> file_;  // null without a folder
};

}  // namespace pqcache::tools
