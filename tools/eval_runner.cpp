#include "tools/eval_runner.h"

#include <cmath>

#include "attention/decoder/token_sampler.h"
#include "storage/stores.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

double Loss(std::span<const float> logits, int64_t token) {
  return -attention::LogProbability(logits, token);
}

}  // namespace

Json EvalResult::ToJson() const {
  Json j;
  const double n = static_cast<double>(samples);
  const double step = steps > 0 ? step_ms / static_cast<double>(steps) : 0;
  j.Set("task", task).Set("policy", policy).Set("ctx", ctx);
  j.Set("depth", depth < 0 ? Json() : Json(depth)).Set("samples", samples);
  j.Set("score", is_ppl ? Json() : Json(score / n));
  j.Set("ppl", is_ppl ? Json(std::exp(loss / n)) : Json());
  // Null where nothing was decoded: exact perplexity comes from the prefill.
  j.Set("ttft_ms", steps > 0 ? Json((prefill_ms + first_ms) / n) : Json());
  j.Set("tpot_ms", steps > 0 ? Json(step) : Json());
  j.Set("tokens_per_second", step > 0 ? Json(1000 / step) : Json());
  j.Set("kv_bytes_resident", resident_bytes / n);
  j.Set("selected_ratio", attended_context > 0 ? attended / attended_context : 0.0);
  if (judged.shadow_steps > 0) {
    const double steps_judged = static_cast<double>(judged.shadow_steps);
    j.Set("recall", judged.recall / steps_judged).Set("mass", judged.mass / steps_judged);
    j.Set("output_error", judged.output_error / steps_judged);
  }
  return j;
}

Status EvalRunner::Open() {
  std::vector<attention::CacheAttentionOptions> all;
  for (const EvalPolicy& policy : *policies_) all.push_back(policy.options);
  PQCACHE_ASSIGN_OR_RETURN(store_, storage::OpenPageStore(flags_->store));
  PQCACHE_ASSIGN_OR_RETURN(storage_, flags_->StorageFor(all, store_.get()));
  // One prefill serves every policy, so its pages keep the keys.
  storage_.value_only_pages = false;
  return Status::Ok();
}

Result<std::unique_ptr<attention::Session>> EvalRunner::StartSession() const {
  attention::CacheAttentionOptions exact = attention::ExactAttention();
  for (const EvalPolicy& policy : *policies_)
    exact.needs.Add(policy.options.policy->prompt_needs());
  return attention::Session::Create(decoder_, storage_, std::move(exact));
}

void EvalRunner::AddStats(const attention::Session& session, uint64_t store_bytes,
                          ScoreSource source, EvalResult* result) {
  const attention::HeadStats total = session.stats().Total();
  if (total.steps == 0) return;
  result->judged.Add(total);
  const double steps = static_cast<double>(total.steps);
  result->attended += (total.always + total.selected) / steps;
  result->attended_context += static_cast<double>(session.tokens());
  const uint64_t pages = session.dropped() ? 0 : store_bytes;
  result->resident_bytes += static_cast<double>(session.memory_bytes_for(source) + pages);
}

Status EvalRunner::RunSample(const TaskSample& sample, std::span<EvalResult> results,
                             std::vector<Prediction>* predictions) {
  PQCACHE_ASSIGN_OR_RETURN(const auto parent, StartSession());
  const Stopwatch start;
  PQCACHE_RETURN_IF_ERROR(parent->Prefill(sample.context, 0, nullptr));
  const double prefill_ms = start.milliseconds();
  for (size_t i = 0; i < policies_->size(); ++i) {
    EvalResult& result = results[i];
    PQCACHE_ASSIGN_OR_RETURN(const auto session, parent->Fork((*policies_)[i].options));
    result.prefill_ms += prefill_ms;
    PQCACHE_ASSIGN_OR_RETURN(const std::string text, Answer(session.get(), sample, &result));
    const bool right = text.starts_with(sample.answer);
    result.score += right ? 1 : 0;
    AddStats(*session, store_->stats().resident_bytes,
             (*policies_)[i].options.policy->score_source(), &result);
    predictions->push_back({result.task, result.policy, sample.answer, text, result.ctx,
                            result.samples, sample.depth, right});
    ++result.samples;
  }
  return Status::Ok();
}

Result<std::string> EvalRunner::Answer(attention::Session* session, const TaskSample& sample,
                                       EvalResult* result) const {
  std::vector<float> logits;
  const Stopwatch start;
  PQCACHE_RETURN_IF_ERROR(session->Ask(sample.question, &logits));
  result->first_ms += start.milliseconds();
  const Stopwatch decode_start;
  // Decoded after the question and cut off behind it: a decoder may treat the first token of a
  // text differently (SentencePiece drops its leading space).
  PQCACHE_ASSIGN_OR_RETURN(const std::string before, tokenizer_->Decode(sample.question, false));
  std::vector<int64_t> tokens = sample.question;
  std::string answer;
  // Two tokens more than the reference needs: a model may split the answer differently.
  for (int64_t i = 0; i < sample.answer_tokens + 2 && answer.size() < sample.answer.size(); ++i) {
    if (i > 0) {
      PQCACHE_RETURN_IF_ERROR(session->Step(tokens.back(), &logits));
      ++result->steps;
    }
    tokens.push_back(attention::ArgMax(logits));
    PQCACHE_ASSIGN_OR_RETURN(const std::string text, tokenizer_->Decode(tokens, false));
    answer = text.size() > before.size() ? text.substr(before.size()) : "";
  }
  result->step_ms += decode_start.milliseconds();
  return answer;
}

Status EvalRunner::RunWindow(std::span<const int64_t> window, int64_t scored,
                             std::span<EvalResult> results) {
  std::unique_ptr<attention::Session> parent;
  std::vector<float> logits;
  double prefill_ms = 0;
  for (size_t i = 0; i < policies_->size(); ++i) {
    EvalResult& result = results[i];
    result.is_ppl = true;
    if ((*policies_)[i].options.policy->attends_all()) {
      PQCACHE_RETURN_IF_ERROR(ExactWindow(window, scored, &result));
      continue;
    }
    if (parent == nullptr) {
      PQCACHE_ASSIGN_OR_RETURN(parent, StartSession());
      const Stopwatch start;
      PQCACHE_RETURN_IF_ERROR(
          parent->Prefill(window.first(window.size() - static_cast<size_t>(scored)), 1, &logits));
      prefill_ms = start.milliseconds();
    }
    PQCACHE_ASSIGN_OR_RETURN(const auto session, parent->Fork((*policies_)[i].options));
    result.prefill_ms += prefill_ms;
    PQCACHE_RETURN_IF_ERROR(DecodeWindow(session.get(), window, scored, logits, &result));
    AddStats(*session, store_->stats().resident_bytes,
             (*policies_)[i].options.policy->score_source(), &result);
  }
  return Status::Ok();
}

Status EvalRunner::DecodeWindow(attention::Session* session, std::span<const int64_t> window,
                                int64_t scored, std::vector<float> logits,
                                EvalResult* result) const {
  const Stopwatch start;
  double loss = 0;
  const auto last = window.last(static_cast<size_t>(scored));
  for (size_t i = 0; i < last.size(); ++i) {
    loss += Loss(logits, last[i]);
    if (i + 1 == last.size()) break;
    PQCACHE_RETURN_IF_ERROR(session->Step(last[i], &logits));
    ++result->steps;
  }
  result->step_ms += start.milliseconds();
  result->loss += loss / static_cast<double>(scored);
  ++result->samples;
  return Status::Ok();
}

Status EvalRunner::ExactWindow(std::span<const int64_t> window, int64_t scored,
                               EvalResult* result) const {
  PQCACHE_ASSIGN_OR_RETURN(const auto session, StartSession());
  const int64_t vocab = decoder_->spec().vocab;
  const auto first = static_cast<int64_t>(window.size()) - scored;
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
  result->prefill_ms += start.milliseconds();
  result->loss += loss / static_cast<double>(scored);
  result->attended += static_cast<double>(window.size());
  result->attended_context += static_cast<double>(window.size());
  result->resident_bytes +=
      static_cast<double>(session->cache().memory_bytes() + store_->stats().resident_bytes);
  ++result->samples;
  return Status::Ok();
}

}  // namespace pqcache::tools
