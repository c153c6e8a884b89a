#pragma once

// Retrieval tasks that the project generates: a context, a question after it (or several, one after
// the other), and the answers. The wording is fixed (the demo models were trained on it). Pure
// functions of their request.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/tokenizer/tokenizer.h"
#include "pqcache/base/random.h"
#include "pqcache/base/status.h"
#include "tools/eval/sample.h"

namespace pqcache::tools {

struct TaskRequest {
  const attention::Tokenizer* tokenizer = nullptr;
  std::span<const int64_t> haystack;  // filler tokens, at least `ctx`
  int64_t ctx = 0;                    // tokens of context, questions and answers together, at most
  double depth = 0;                   // where the first fact stands: 0 beginning, 1 end
  int turns = 1;                      // questions; further facts are spread over the context
  Random* random = nullptr;
};

// One row of THE LIST in generated_tasks.cpp.
struct TaskEntry {
  std::string_view name;
  std::string_view help;
  Result<EvalSample> (*generate)(const TaskRequest& request);
};

std::span<const TaskEntry> GeneratedTasks();
// Of all of them, separated by commas.
std::string TaskNames();

// The row of that name; the error lists the known ones.
Result<const TaskEntry*> FindTask(std::string_view name);

// Filler of at least `tokens` tokens: a text file's, or for an empty path the noise sentences of
// the passkey task, repeated.
Result<std::vector<int64_t>> LoadHaystack(const std::string& path, int64_t tokens,
                                          const attention::Tokenizer& tokenizer);

}  // namespace pqcache::tools
