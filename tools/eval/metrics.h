#pragma once

// Scores of an answer against its references, in [0, 1], as the scorers of the benchmarks give
// them. Letters are folded to lower case in ASCII only. Pure functions. They differ from the
// scorers in this: blanks in front of a letter of an option are skipped, and Chinese punctuation
// counts as text in qa_f1_zh.
//
// Sources: RULER (Hsieh et al., 2024), LongBench (Bai et al., 2024), InfiniteBench (Zhang et al.,
// 2024); for ROUGE, rouge.h. HELM scores exported answers itself (with stemming, which is not
// here).

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/status.h"

namespace pqcache::tools {

struct References {
  std::vector<std::string> answers;  // at least one
  std::vector<std::string> classes;  // of a classification
};

// One row of THE LIST in metrics.cpp.
struct MetricEntry {
  std::string_view name;
  std::string_view help;
  double (*score)(std::string_view prediction, const References& references);
};

std::span<const MetricEntry> Metrics();

// The row of that name; the error lists the known ones.
Result<const MetricEntry*> FindMetric(std::string_view name);

}  // namespace pqcache::tools
