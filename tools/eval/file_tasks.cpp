#include "tools/eval/file_tasks.h"

#include <algorithm>

#include "tools/model_flags.h"

namespace pqcache::tools {
namespace {

// "abc" or ["abc", 5]: texts, numbers as they are written.
Result<std::vector<std::string>> Texts(const Json& line, std::string_view key) {
  const Json* member = line.Find(key);
  std::vector<std::string> texts;
  const auto add = [&](const Json& value) {
    if (value.is_string()) texts.push_back(value.AsString());
    if (value.is_number()) texts.push_back(value.Dump());
    return value.is_string() || value.is_number();
  };
  bool fits = member != nullptr;
  if (fits && member->is_array()) {
    for (const Json& value : member->AsArray()) fits = fits && add(value);
  } else if (fits) {
    fits = add(*member);
  }
  if (fits && !texts.empty()) return texts;
  if (fits) return Status::InvalidArgument("'" + std::string(key) + "' is empty, expected a text");
  return Status::InvalidArgument("'" + std::string(key) + "' is " +
                                 (member == nullptr ? "absent" : std::string(member->KindName())) +
                                 ", expected a text or an array of texts");
}

// Behind the last line break, the question.
void SplitLastLine(const std::string& text, TextSample* sample) {
  const size_t end = text.find_last_not_of('\n');
  const size_t at = end == std::string::npos ? std::string::npos : text.rfind('\n', end);
  sample->context = at == std::string::npos ? "" : text.substr(0, at);
  sample->question = at == std::string::npos ? text : text.substr(at);
}

Result<TextSample> ReadRuler(const SpecString& task, const Json& line) {
  constexpr std::string_view kMetrics[] = {"match_all", "match_any"};
  TextSample sample;
  PQCACHE_ASSIGN_OR_RETURN(const std::string input, line.GetString("input"));
  PQCACHE_ASSIGN_OR_RETURN(const std::string prefix, line.StringOr("answer_prefix", ""));
  PQCACHE_ASSIGN_OR_RETURN(sample.references.answers, Texts(line, "outputs"));
  PQCACHE_ASSIGN_OR_RETURN(const size_t metric, task.ChoiceOr("metric", kMetrics, 0));
  PQCACHE_ASSIGN_OR_RETURN(sample.max_tokens, task.IntOr("max_tokens", 128));
  SplitLastLine(input, &sample);
  sample.question += prefix;
  sample.metrics = {std::string(kMetrics[metric])};
  return sample;
}

struct LongBenchSet {
  std::string_view name, metric, before, after;  // of the input, in the question
  int64_t max_tokens;
  bool first_line;  // of the answer counts
};
constexpr std::string_view kAsk = "\n\nQuestion: ", kAnswer = "\nAnswer:";
constexpr LongBenchSet kLongBench[] = {
    {"narrativeqa", "qa_f1", kAsk, kAnswer, 128, false},
    {"qasper", "qa_f1", kAsk, kAnswer, 128, false},
    {"multifieldqa_en", "qa_f1", kAsk, kAnswer, 64, false},
    {"hotpotqa", "qa_f1", kAsk, kAnswer, 32, false},
    {"2wikimqa", "qa_f1", kAsk, kAnswer, 32, false},
    {"musique", "qa_f1", kAsk, kAnswer, 32, false},
    {"nq", "qa_f1", kAsk, kAnswer, 32, false},
    {"triviaqa", "qa_f1", "\n\n", "", 32, true},
    {"gov_report", "rouge_l", "\n\n", "Summary:", 512, false},
    {"qmsum", "rouge_l", "\n\nQuery: ", kAnswer, 512, false},
    {"multi_news", "rouge_l", "\n\n", "Summary:", 512, false},
    {"samsum", "rouge_l", "\n\n", "", 128, true},
    {"trec", "classification", "\n", "", 64, true},
    {"passage_retrieval_en", "retrieval", "\n\nAbstract: ", "\nThe abstract is of Paragraph", 32,
     false},
    {"passage_count", "count", "\n\n", "Number of different paragraphs:", 32, false},
    {"lcc", "edit", "", "\n", 64, false},
    {"repobench-p", "edit", "\n", "\n", 64, false},
};

Result<TextSample> ReadLongBench(const SpecString& task, const Json& line) {
  TextSample sample;
  PQCACHE_ASSIGN_OR_RETURN(sample.context, line.GetString("context"));
  PQCACHE_ASSIGN_OR_RETURN(const std::string input, line.GetString("input"));
  PQCACHE_ASSIGN_OR_RETURN(sample.references.answers, Texts(line, "answers"));
  if (const Json* classes = line.Find("all_classes"); classes != nullptr && !classes->is_null()) {
    PQCACHE_ASSIGN_OR_RETURN(sample.references.classes, Texts(line, "all_classes"));
  }
  PQCACHE_ASSIGN_OR_RETURN(std::string dataset, line.GetString("dataset"));
  if (dataset.ends_with("_e")) dataset.resize(dataset.size() - 2);  // LongBench-E
  std::string known;
  for (const LongBenchSet& set : kLongBench) {
    known += (known.empty() ? "" : ", ") + std::string(set.name);
    if (set.name != dataset) continue;
    PQCACHE_ASSIGN_OR_RETURN(sample.max_tokens, task.IntOr("max_tokens", set.max_tokens));
    sample.question = std::string(set.before) + input + std::string(set.after);
    sample.metrics = {std::string(set.metric)};
    sample.first_line = set.first_line;
    if (set.first_line) sample.stops = {"\n"};
    if (set.metric == "classification" && sample.references.classes.empty()) {
      return Status::InvalidArgument("'all_classes' is absent, expected the classes of " + dataset);
    }
    return sample;
  }
  return Status::InvalidArgument("dataset is '" + dataset + "', expected one of: " + known);
}

struct InfiniteSet {
  std::string_view name, metric, question;  // {} is the input
  int64_t max_tokens;
};
constexpr InfiniteSet kInfinite[] = {
    {"passkey", "first_number", "\n{}\nThe pass key is", 6},
    {"number_string", "first_number", "\n{}\nThe sequence of digits is", 12},
    {"kv_retrieval", "word", "\n{}", 50},
    {"longbook_qa_eng", "qa_f1", "\n\nQuestion: {}\nAnswer:", 40},
    {"longbook_qa_chn", "qa_f1_zh", "\n\n{}\n", 40},
    {"longbook_sum_eng", "rouge_lsum", "\n\n{}\nSummary:", 1200},
    {"longbook_choice_eng", "choice", "\n\nQuestion: {}\nThe letter of the right answer is:", 40},
    {"longdialogue_qa_eng", "dialogue", "\n\n{}\nThe name behind $$MASK$$ is", 40},
    {"math_find", "math_find", "\n\n{}\n", 3},
    {"math_calc", "math_calc", "\n\n{}\n", 30000},
    {"code_run", "code_run", "\n\n{}\nThe return value is:", 5},
    {"code_debug", "code_debug", "\n\n{}\nThe answer is:", 5},
};

Result<TextSample> ReadInfiniteBench(const SpecString& task, const Json& line) {
  TextSample sample;
  PQCACHE_ASSIGN_OR_RETURN(sample.context, line.GetString("context"));
  PQCACHE_ASSIGN_OR_RETURN(std::string input, line.GetString("input"));
  PQCACHE_ASSIGN_OR_RETURN(sample.references.answers, Texts(line, "answer"));
  std::vector<std::string> options;
  if (const Json* list = line.Find("options");
      list != nullptr && list->is_array() && !list->AsArray().empty()) {
    PQCACHE_ASSIGN_OR_RETURN(options, Texts(line, "options"));
  }
  std::string letter;
  for (size_t i = 0; i < options.size() && i < 26; ++i) {
    const std::string name(1, static_cast<char>('A' + i));
    input += "\n" + name + ". " + options[i];
    if (options[i] == sample.references.answers.front()) letter = name;
  }
  const std::string dataset = task.StringOr("task", "");
  std::string known;
  for (const InfiniteSet& set : kInfinite) {
    known += (known.empty() ? "" : ", ") + std::string(set.name);
    if (set.name != dataset) continue;
    sample.question = set.question;
    sample.question.replace(sample.question.find("{}"), 2, input);
    sample.metrics = {std::string(set.metric)};
    PQCACHE_ASSIGN_OR_RETURN(sample.max_tokens, task.IntOr("max_tokens", set.max_tokens));
    if (set.metric == "choice" || set.metric == "code_debug") {
      if (letter.empty()) {
        return Status::InvalidArgument("'options' do not hold the answer '" +
                                       sample.references.answers.front() + "'");
      }
      sample.references.answers.push_back(letter);
    }
    return sample;
  }
  return Status::InvalidArgument("infinitebench:task is '" + dataset +
                                 "', expected one of: " + known);
}

// Of H2O's lines: article, summary_gt. Of HELM's: request, and a reference beside it.
Result<TextSample> ReadSummarization(const SpecString& task, const Json& line) {
  TextSample sample;
  const Json* request = line.Find("request");
  const Json& asked = request == nullptr ? line : *request;
  PQCACHE_ASSIGN_OR_RETURN(sample.max_tokens, asked.IntOr("max_tokens", 64));
  PQCACHE_ASSIGN_OR_RETURN(sample.max_tokens, task.IntOr("max_tokens", sample.max_tokens));
  if (const Json* stop = asked.Find("stop"); stop != nullptr && !stop->is_null()) {
    const bool none = stop->is_array() && stop->AsArray().empty();
    if (!none) {
      PQCACHE_ASSIGN_OR_RETURN(sample.stops, Texts(asked, "stop"));
    }
  }
  if (request != nullptr) {
    PQCACHE_ASSIGN_OR_RETURN(const std::string prompt, asked.GetString("prompt"));
    SplitLastLine(prompt, &sample);
    PQCACHE_ASSIGN_OR_RETURN(sample.references.answers, Texts(line, "reference"));
  } else {
    PQCACHE_ASSIGN_OR_RETURN(sample.context, line.GetString("article"));
    const bool h2o = line.Find("summary_gt") != nullptr;
    PQCACHE_ASSIGN_OR_RETURN(sample.references.answers,
                             Texts(line, h2o ? "summary_gt" : "summary"));
    // H2O's articles are whole prompts.
    if (h2o) {
      SplitLastLine(std::string(sample.context), &sample);
    } else {
      sample.question = "\n\nSummary:";
    }
  }
  sample.metrics = {"rouge_l", "rouge_1", "rouge_2"};
  if (request != nullptr) {
    sample.source = *request;  // HELM finds an answer by its whole request
  } else {
    sample.source.Set("prompt", sample.context + sample.question);
    sample.source.Set("max_tokens", sample.max_tokens).Set("temperature", 0);
  }
  return sample;
}

Result<TextSample> ReadMultipleChoice(const SpecString& task, const Json& line) {
  TextSample sample;
  PQCACHE_ASSIGN_OR_RETURN(const std::string question, line.GetString("question"));
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<std::string> choices, Texts(line, "choices"));
  const Json* answer = line.Find("answer");
  int64_t right = -1;
  if (answer != nullptr && answer->is_int()) right = answer->AsInt();
  if (answer != nullptr && answer->is_string() && answer->AsString().size() == 1) {
    right = answer->AsString()[0] - 'A';
  }
  if (choices.size() < 2 || choices.size() > 26 || right < 0 || right >= std::ssize(choices)) {
    return Status::InvalidArgument("'answer' is not one of " + std::to_string(choices.size()) +
                                   " choices, expected its number from 0 or its letter, and 2 to "
                                   "26 choices");
  }
  if (const std::string shots = task.StringOr(kShots, ""); !shots.empty()) {
    PQCACHE_ASSIGN_OR_RETURN(sample.context, ReadText(shots));
  }
  sample.question = "Question: " + question;
  for (size_t i = 0; i < choices.size(); ++i) {
    const char letter = static_cast<char>('A' + i);
    sample.question += std::string("\n") + letter + ". " + choices[i];
    sample.choices.push_back(std::string(" ") + letter);
  }
  sample.question += "\nAnswer:";
  sample.references.answers = {sample.choices[static_cast<size_t>(right)]};
  sample.metrics = {"prefix"};
  return sample;
}

const std::vector<FileTaskEntry> kTasks = {
    {"ruler", "RULER's jsonl", {"metric", "max_tokens"}, ReadRuler},
    {"longbench", "LongBench's jsonl", {"max_tokens"}, ReadLongBench},
    {"infinitebench",
     "InfiniteBench's jsonl: infinitebench:task=NAME",
     {"task", "max_tokens"},
     ReadInfiniteBench},
    {"summarization", "HELM's and H2O's jsonl", {"max_tokens"}, ReadSummarization},
    {"multiple_choice",
     "questions with choices, by likelihood: multiple_choice:shots=FILE",
     {kShots},
     ReadMultipleChoice},
};

}  // namespace

std::span<const FileTaskEntry> FileTasks() { return kTasks; }

const FileTaskEntry* FindFileTask(std::string_view name) {
  const auto task = std::find_if(kTasks.begin(), kTasks.end(),
                                 [&](const FileTaskEntry& entry) { return entry.name == name; });
  return task == kTasks.end() ? nullptr : &*task;
}

Result<std::vector<TextSample>> ReadTaskFile(const SpecString& task, const std::string& path,
                                             int64_t limit) {
  const FileTaskEntry* entry = FindFileTask(task.name);
  PQCACHE_CHECK(entry != nullptr, "a task of the list");
  PQCACHE_RETURN_IF_ERROR(task.CheckKnown(entry->parameters));
  PQCACHE_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  std::vector<TextSample> samples;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const auto annotate = [&](const Status& status) {
      return status.Annotate(path + ", line " + std::to_string(number));
    };
    Result<Json> json = Json::Parse(line);
    if (!json.ok()) return annotate(json.status());
    Result<TextSample> sample = entry->read(task, *json);
    if (!sample.ok()) return annotate(sample.status());
    samples.push_back(*std::move(sample));
    if (limit > 0 && std::ssize(samples) == limit) break;
  }
  if (samples.empty()) return Status::InvalidArgument(path + " has no samples");
  return samples;
}

Result<EvalSample> Tokenise(const TextSample& text, int64_t ctx,
                            const attention::Tokenizer& tokenizer) {
  EvalSample sample;
  sample.source = text.source;
  PQCACHE_ASSIGN_OR_RETURN(sample.context, tokenizer.Encode(text.context, true));
  EvalQuestion question;
  PQCACHE_ASSIGN_OR_RETURN(question.tokens, tokenizer.Encode(text.question, false));
  question.references = text.references;
  for (const std::string& name : text.metrics) {
    PQCACHE_ASSIGN_OR_RETURN(const MetricEntry* metric, FindMetric(name));
    question.metrics.push_back(metric);
  }
  question.max_tokens = text.max_tokens;
  question.stops = text.stops;
  question.first_line = text.first_line;
  question.choices = text.choices;
  // A question without a context is its own: all but its last token.
  if (sample.context.size() <= 1) {  // a beginning-of-sequence token
    if (question.tokens.size() < 2) {
      return Status::InvalidArgument("a sample has no context and no question");
    }
    sample.context.insert(sample.context.end(), question.tokens.begin(), question.tokens.end() - 1);
    question.tokens.erase(question.tokens.begin(), question.tokens.end() - 1);
  }
  const int64_t room = ctx - std::ssize(question.tokens) - question.max_tokens;
  if (room < 2) {
    return Status::InvalidArgument("--ctx is " + std::to_string(ctx) + ", the question takes " +
                                   std::to_string(std::ssize(question.tokens)) +
                                   " tokens and its answer " + std::to_string(question.max_tokens) +
                                   ", expected room for a context");
  }
  if (std::ssize(sample.context) > room) {
    const int64_t head = (room + 1) / 2, tail = room / 2;
    sample.context.erase(sample.context.begin() + head, sample.context.end() - tail);
    sample.truncated = true;
  }
  sample.questions.push_back(std::move(question));
  return sample;
}

}  // namespace pqcache::tools
