#pragma once

// Tasks that are read from files of the field's benchmarks, a JSON object a line:
//   ruler             input, outputs[], answer_prefix (optional); the last line of the input is the
//                     question. ruler:metric=match_any for its question answering.
//   longbench         input, context, answers[], dataset, all_classes (optional)
//   infinitebench     context, input, answer, options (optional); infinitebench:task=kv_retrieval
//   summarization     HELM: request{prompt, max_tokens, stop} and reference; or article and summary
//                     (also summary_gt), as H2O's scripts write them
//   multiple_choice   question, choices[], answer (number or letter); multiple_choice:shots=FILE
// Prompts are worded here, so scores compare policies, and not with published tables. A context
// that is longer than it may be loses tokens in its middle, as in LongBench.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "attention/tokenizer/tokenizer.h"
#include "pqcache/base/json.h"
#include "pqcache/base/spec_string.h"
#include "tools/eval/sample.h"

namespace pqcache::tools {

// A sample before it is cut into tokens.
struct TextSample {
  std::string context, question;
  References references;
  std::vector<std::string> metrics;  // the first one is the score
  int64_t max_tokens = 0;
  std::vector<std::string> stops;
  bool first_line = false;
  std::vector<std::string> choices;
  Json source;  // the request, in HELM's form
};

// The parameter of multiple_choice that names a file.
inline constexpr char kShots[] = "shots";

// One row of THE LIST in file_tasks.cpp.
struct FileTaskEntry {
  std::string_view name;
  std::string_view help;
  std::vector<std::string_view> parameters;
  Result<TextSample> (*read)(const SpecString& task, const Json& line);
};

std::span<const FileTaskEntry> FileTasks();
// The row of that name, or null.
const FileTaskEntry* FindFileTask(std::string_view name);

// The first `limit` samples of a file (0: all). Errors name the file and the line.
Result<std::vector<TextSample>> ReadTaskFile(const SpecString& task, const std::string& path,
                                             int64_t limit);

// Tokens of a sample: context, question and answer fit into `ctx`.
Result<EvalSample> Tokenise(const TextSample& text, int64_t ctx,
                            const attention::Tokenizer& tokenizer);

}  // namespace pqcache::tools
