#pragma once

// Retrieval tasks that the project generates: a context, a question after it, and the answer.
// The wording is fixed (the demo models were trained on it). Pure functions of their request.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/tokenizer/tokenizer.h"
#include "pqcache/base/random.h"
#include "pqcache/base/status.h"

namespace pqcache::tools {

struct TaskSample {
  std::vector<int64_t> context;   // known before the question
  std::vector<int64_t> question;  // ends where the answer begins
  std::string answer;             // what greedy decoding must produce, to the character
  int64_t answer_tokens = 0;      // of the reference answer
  double depth = 0;               // as requested
};

struct TaskRequest {
  const attention::Tokenizer* tokenizer = nullptr;
  std::span<const int64_t> haystack;  // filler tokens, at least `ctx`
  int64_t ctx = 0;                    // tokens of context, question and answer together, at most
  double depth = 0;                   // where the fact stands: 0 beginning, 1 end
  Random* random = nullptr;
};

// One row of THE LIST in eval_tasks.cpp.
struct TaskEntry {
  std::string_view name;
  std::string_view help;
  Result<TaskSample> (*generate)(const TaskRequest& request);
};

std::span<const TaskEntry> GeneratedTasks();

// The row of that name; the error lists the known ones.
Result<const TaskEntry*> FindTask(std::string_view name);

// Filler of at least `tokens` tokens: a text file's, or for an empty path the noise sentences of
// the passkey task, repeated.
Result<std::vector<int64_t>> LoadHaystack(const std::string& path, int64_t tokens,
                                          const attention::Tokenizer& tokenizer);

}  // namespace pqcache::tools
