#include "tools/eval/runner.h"

#include <algorithm>
#include <cmath>

#include "attention/decoder/token_sampler.h"
#include "storage/stores.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

double Loss(std::span<const float> logits, int64_t token) {
  return -attention::LogProbability(logits, token);
}

// Cuts the answer in front of the first of `stops`; true if there is one.
bool CutAtStop(const std::vector<std::string>& stops, std::string* answer) {
  size_t end = std::string::npos;
  for (const std::string& stop : stops) end = std::min(end, answer->find(stop));
  if (end == std::string::npos) return false;
  answer->resize(end);
  return true;
}

}  // namespace

Status EvalRunner::Open() {
  std::vector<attention::CacheAttentionOptions> all;
  for (const EvalPolicy& policy : *policies_) all.push_back(policy.options);
  PQCACHE_ASSIGN_OR_RETURN(store_, storage::OpenPageStore(flags_->store));
  PQCACHE_ASSIGN_OR_RETURN(storage_, flags_->StorageFor(all, store_.get()));
  // One prefill serves every policy, so its pages keep the keys.
  storage_.value_only_pages = false;
  return Status::Ok();
}

double EvalRunner::PrefillMs(double ms, const attention::Session& parent,
                             const EvalPolicy& policy) {
  return ms - parent.unneeded_record_ms(policy.options.policy->prompt_needs());
}

Result<std::unique_ptr<attention::Session>> EvalRunner::StartSession(bool recorded) const {
  attention::CacheAttentionOptions exact = attention::ExactAttention();
  for (const EvalPolicy& policy : *policies_) {
    if (recorded) exact.needs.Add(policy.options.policy->prompt_needs());
  }
  return attention::Session::Create(decoder_, storage_, std::move(exact));
}

double EvalRunner::FlopsPerToken(double attended) const {
  const attention::ModelSpec& s = decoder_->spec();
  const auto width = static_cast<double>(s.hidden);
  const double heads = s.heads * s.head_dim, kv_heads = s.kv_heads * s.head_dim;
  const double mlp = (s.names.gate.empty() ? 2.0 : 3.0) * static_cast<double>(s.intermediate);
  const double layer = width * (2 * heads + 2 * kv_heads + mlp) + 2 * heads * attended;
  return 2 * (static_cast<double>(s.layers) * layer + width * static_cast<double>(s.vocab));
}

void EvalRunner::WarnOnce(const attention::Session& parent) {
  warned_ = warned_ || WarnOfMisfit(FitOf(parent.cache()));
}

void EvalRunner::AddStats(const attention::Session& session, const EvalPolicy& policy,
                          SampleResult* result) const {
  const attention::HeadStats total = session.stats().Total();
  const uint64_t pages = session.dropped() ? 0 : store_->stats().resident_bytes;
  result->resident_bytes =
      static_cast<double>(session.memory_bytes_for(policy.options.policy->score_source()) + pages);
  if (total.steps > 0) {
    result->context = total.context / static_cast<double>(total.steps);
    result->attended = (total.always + total.selected) / static_cast<double>(total.steps);
  }
  result->flops_per_token = FlopsPerToken(result->attended);
  result->judged = JudgedHeads(session.stats());
}

Status EvalRunner::RunSample(const EvalSample& sample, std::span<const EvalPolicy* const> policies,
                             const Sink& sink) {
  PQCACHE_ASSIGN_OR_RETURN(const auto parent, StartSession(true));
  const Stopwatch start;
  std::vector<float> logits;
  PQCACHE_RETURN_IF_ERROR(parent->Prefill(sample.context, 1, &logits));
  const double prefill_ms = start.milliseconds();
  WarnOnce(*parent);
  for (const EvalPolicy* policy : policies) {
    SampleResult result;
    result.sample_depth = sample.depth;
    result.truncated = sample.truncated;
    result.prefill_ms = PrefillMs(prefill_ms, *parent, *policy);
    result.source = sample.source;
    const Stopwatch fork;
    PQCACHE_ASSIGN_OR_RETURN(const auto session, parent->Fork(policy->options));
    result.first_ms = fork.milliseconds();  // some policies look at the prompt once more
    for (const EvalQuestion& question : sample.questions) {
      const bool goes_on = &question != &sample.questions.back();
      PQCACHE_ASSIGN_OR_RETURN(SampleTurn turn,
                               Answer(session.get(), question, goes_on, logits, &result));
      result.turns.push_back(std::move(turn));
    }
    AddStats(*session, *policy, &result);
    PQCACHE_RETURN_IF_ERROR(sink(*policy, std::move(result)));
  }
  return Status::Ok();
}

Result<SampleTurn> EvalRunner::Answer(attention::Session* session, const EvalQuestion& question,
                                      bool goes_on, std::vector<float> logits,
                                      SampleResult* result) const {
  const Stopwatch start;
  if (!question.in_prompt) PQCACHE_RETURN_IF_ERROR(session->Ask(question.tokens, &logits));
  if (result->turns.empty()) result->first_ms += start.milliseconds();
  SampleTurn turn;
  turn.answer = question.references.answers.front();
  if (question.choices.empty()) {
    PQCACHE_RETURN_IF_ERROR(Generate(session, question, goes_on, &logits, &turn, result));
  } else {
    PQCACHE_ASSIGN_OR_RETURN(turn.predicted, Choose(session, question, logits));
  }
  for (const MetricEntry* metric : question.metrics) {
    turn.scores.emplace_back(metric->name, metric->score(turn.predicted, question.references));
  }
  return turn;
}

Status EvalRunner::Generate(attention::Session* session, const EvalQuestion& question, bool goes_on,
                            std::vector<float>* logits, SampleTurn* turn,
                            SampleResult* result) const {
  // Decoded after the question and cut off behind it: a decoder may treat the first token of a
  // text differently (SentencePiece drops its leading space).
  PQCACHE_ASSIGN_OR_RETURN(const std::string before, tokenizer_->Decode(question.tokens, false));
  const std::vector<int64_t>& ends = decoder_->spec().eos_tokens;
  std::vector<int64_t> tokens = question.tokens;
  std::string& answer = turn->predicted;
  bool unread = false;  // the answer's last token, by the session
  for (int64_t i = 0; i < question.max_tokens; ++i) {
    const int64_t token = attention::ArgMax(*logits);
    turn->stopped = std::find(ends.begin(), ends.end(), token) != ends.end();
    if (turn->stopped) break;
    tokens.push_back(token);
    unread = true;
    PQCACHE_ASSIGN_OR_RETURN(const std::string text, tokenizer_->Decode(tokens, false));
    answer = text.size() > before.size() ? text.substr(before.size()) : "";
    if (question.first_line)
      answer.erase(0, std::min(answer.find_first_not_of('\n'), answer.size()));
    turn->stopped = CutAtStop(question.stops, &answer);
    if (turn->stopped || i + 1 == question.max_tokens) break;
    if (question.max_bytes > 0 && answer.size() >= question.max_bytes) break;
    const Stopwatch step;
    PQCACHE_RETURN_IF_ERROR(session->Step(token, logits));
    unread = false;
    // Some policies look at the whole prompt in their first step.
    const bool first = question.in_prompt && i == 0;
    if (first) result->first_ms += step.milliseconds();
    if (!first) result->gaps_ms.push_back(step.milliseconds());
  }
  // The next question follows the whole answer.
  return goes_on && unread ? session->Step(tokens.back(), logits) : Status::Ok();
}

Result<std::string> EvalRunner::Choose(attention::Session* session, const EvalQuestion& question,
                                       std::vector<float> logits) const {
  std::vector<std::vector<int64_t>> choices;
  for (const std::string& choice : question.choices) {
    PQCACHE_ASSIGN_OR_RETURN(choices.emplace_back(), tokenizer_->Encode(choice, false));
  }
  // What all of them begin with (a blank, in some tokenizers) is said first.
  size_t common = 0;
  const auto same = [&](const std::vector<int64_t>& tokens) {
    return tokens.size() > common + 1 && tokens[common] == choices[0][common];
  };
  while (std::all_of(choices.begin(), choices.end(), same)) ++common;
  if (common > 0) {
    PQCACHE_RETURN_IF_ERROR(session->Ask(std::span(choices[0]).first(common), &logits));
  }
  size_t best = 0;
  double most = 0;
  std::vector<int64_t> seen;
  for (size_t i = 0; i < choices.size(); ++i) {
    const int64_t token = choices[i].size() > common ? choices[i][common] : -1;
    if (token < 0 || std::find(seen.begin(), seen.end(), token) != seen.end()) {
      return Status::InvalidArgument("the choice '" + question.choices[i] +
                                     "' has no token of its own in this tokenizer");
    }
    seen.push_back(token);
    const double probability = attention::LogProbability(logits, token);
    if (i == 0 || probability > most) {
      most = probability;
      best = i;
    }
  }
  return question.choices[best];
}

Status EvalRunner::RunWindow(std::span<const int64_t> window, int64_t scored,
                             std::span<const EvalPolicy* const> policies, const Sink& sink) {
  std::unique_ptr<attention::Session> parent;
  std::vector<float> logits;
  double prefill_ms = 0;
  const auto by_prefill = [&](const EvalPolicy* policy) {
    return policy->options.policy->attends_all() && !step_exact_;
  };
  // First, while no pages but its own are in the store.
  for (const EvalPolicy* policy : policies) {
    if (!by_prefill(policy)) continue;
    PQCACHE_ASSIGN_OR_RETURN(SampleResult result, ExactWindow(window, scored));
    PQCACHE_RETURN_IF_ERROR(sink(*policy, std::move(result)));
  }
  for (const EvalPolicy* policy : policies) {
    if (by_prefill(policy)) continue;
    if (parent == nullptr) {
      PQCACHE_ASSIGN_OR_RETURN(parent, StartSession(true));
      const Stopwatch start;
      PQCACHE_RETURN_IF_ERROR(
          parent->Prefill(window.first(window.size() - static_cast<size_t>(scored)), 1, &logits));
      prefill_ms = start.milliseconds();
      WarnOnce(*parent);
    }
    SampleResult result;
    result.prefill_ms = PrefillMs(prefill_ms, *parent, *policy);
    const Stopwatch fork;
    PQCACHE_ASSIGN_OR_RETURN(const auto session, parent->Fork(policy->options));
    result.first_ms = fork.milliseconds();
    PQCACHE_RETURN_IF_ERROR(DecodeWindow(session.get(), window, scored, logits, &result));
    AddStats(*session, *policy, &result);
    PQCACHE_RETURN_IF_ERROR(sink(*policy, std::move(result)));
  }
  return Status::Ok();
}

Status EvalRunner::DecodeWindow(attention::Session* session, std::span<const int64_t> window,
                                int64_t scored, std::vector<float> logits,
                                SampleResult* result) const {
  double loss = 0;
  const auto last = window.last(static_cast<size_t>(scored));
  for (size_t i = 0; i < last.size(); ++i) {
    loss += Loss(logits, last[i]);
    if (i + 1 == last.size()) break;
    const Stopwatch step;
    PQCACHE_RETURN_IF_ERROR(session->Step(last[i], &logits));
    if (i == 0) result->first_ms += step.milliseconds();
    if (i > 0) result->gaps_ms.push_back(step.milliseconds());
  }
  result->loss = loss / static_cast<double>(scored);
  return Status::Ok();
}

Result<SampleResult> EvalRunner::ExactWindow(std::span<const int64_t> window,
                                             int64_t scored) const {
  PQCACHE_ASSIGN_OR_RETURN(const auto session, StartSession(false));
  const int64_t vocab = decoder_->spec().vocab;
  const auto first = static_cast<int64_t>(window.size()) - scored;
  SampleResult result;
  const Stopwatch start;
  double loss = 0;
  std::vector<float> logits;
  for (int64_t begin = 0; begin < static_cast<int64_t>(window.size());) {
    const int64_t end =
        std::min(static_cast<int64_t>(window.size()), begin + attention::Session::kChunkTokens);
    // The logits of token t score token t + 1.
    const int64_t wanted = std::max(begin, first - 1);
    const int64_t rows = std::max<int64_t>(0, end - wanted);
    PQCACHE_RETURN_IF_ERROR(session->Prefill(
        window.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), rows,
        &logits));
    for (int64_t t = wanted; t < end && t + 1 < static_cast<int64_t>(window.size()); ++t) {
      const std::span<const float> row(logits.data() + (t - wanted) * vocab,
                                       static_cast<size_t>(vocab));
      loss += Loss(row, window[static_cast<size_t>(t + 1)]);
    }
    begin = end;
  }
  result.prefill_ms = start.milliseconds();
  result.loss = loss / static_cast<double>(scored);
  result.attended = result.context = static_cast<double>(window.size());
  result.flops_per_token = FlopsPerToken(result.attended);
  result.resident_bytes = static_cast<double>(session->memory_bytes_for(ScoreSource::kNone) +
                                              store_->stats().resident_bytes);
  return result;
}

}  // namespace pqcache::tools
