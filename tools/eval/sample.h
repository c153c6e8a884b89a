#pragma once

// One sample of an evaluation: a context, and the questions that are asked about it in turn.

#include <cstdint>
#include <string>
#include <vector>

#include "pqcache/base/json.h"
#include "tools/eval/metrics.h"

namespace pqcache::tools {

struct EvalQuestion {
  std::vector<int64_t> tokens;  // end where the answer begins
  bool in_prompt = false;       // the context ends with them: only of the first question
  References references;
  std::vector<const MetricEntry*> metrics;  // the first one is the score
  int64_t max_tokens = 0;                   // of the answer
  size_t max_bytes = 0;                     // that the score looks at; 0: all
  std::vector<std::string> stops;           // the answer ends before any of these
  bool first_line = false;                  // line breaks in front of the answer do not count
  // Not empty: nothing is generated; the answer is the one of these that is most likely to come
  // next, by the first token that tells them apart.
  std::vector<std::string> choices;
};

struct EvalSample {
  std::vector<int64_t> context;  // known before the questions
  std::vector<EvalQuestion> questions;
  double depth = -1;       // share of the context before the first fact; -1: unknown
  bool truncated = false;  // tokens were left out of the middle of the context
  Json source;             // request in HELM's form; null: none
};

}  // namespace pqcache::tools
