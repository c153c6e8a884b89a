// pqcache check: the same tokens through exact attention and through a policy, teacher-forced, and
// how far the two are apart: per layer and head, and in the logits.

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "attention/decoder/token_sampler.h"
#include "attention/reference_attention.h"
#include "pqcache/base/log.h"
#include "storage/stores.h"
#include "tools/commands.h"
#include "tools/eval/generated_tasks.h"
#include "tools/model_flags.h"

namespace pqcache::tools {
namespace {

// What the exact path may deviate from the double-precision reference, relative to the largest
// output. A float32 logit of size 100 is off by some 1e-5, and so is its weight; 16,000 tokens were
// seen to add up to 7e-5. Both sides read keys and values as they are stored, so the compute type
// does not matter.
constexpr double kReferenceTolerance = 1e-3;

double KlDivergence(std::span<const float> exact, std::span<const float> policy) {
  double kl = 0;
  const double exact_z = attention::LogSumExp(exact), policy_z = attention::LogSumExp(policy);
  for (size_t i = 0; i < exact.size(); ++i) {
    const double p = exact[i] - exact_z;
    kl += std::exp(p) * (p - (policy[i] - policy_z));
  }
  return kl;
}

struct LogitSums {
  int64_t tokens = 0, agree = 0;
  double kl = 0, exact_loss = 0, policy_loss = 0;

  void Add(std::span<const float> exact, std::span<const float> policy, int64_t next) {
    ++tokens;
    agree += attention::ArgMax(exact) == attention::ArgMax(policy) ? 1 : 0;
    kl += KlDivergence(exact, policy);
    exact_loss -= attention::LogProbability(exact, next);
    policy_loss -= attention::LogProbability(policy, next);
  }
  double Mean(double sum) const { return sum / static_cast<double>(tokens); }
};

class CheckCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    model_.Declare(flags);
    attention_.Declare(flags);
    flags->Text("--policy", &policy_, PolicyHelp());
    flags->Text("-f,--file", &file_, "text to run");
    flags->Text("--task", &task_, "or a generated task: " + TaskNames());
    flags->Text("--haystack", &haystack_, "filler of --task; default: noise sentences");
    flags->Count("--ctx", &ctx_, "tokens in all (0: the model's range, at most 16000)");
    flags->Count("--last", &last_, "tokens compared; the others are prefilled exactly");
    flags->Number("--min-agreement", &min_agreement_, "share of equal top tokens needed to pass");
    flags->Number("--max-kl", &max_kl_, "mean KL divergence in nats allowed to pass");
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(model_.Prepare());
    PQCACHE_RETURN_IF_ERROR(attention_.Prepare());
    if (file_.empty() && task_.empty()) task_ = "needle";
    if (!file_.empty() && !task_.empty()) {
      return Status::InvalidArgument("expected one of --file FILE and --task NAME");
    }
    if (!task_.empty()) PQCACHE_RETURN_IF_ERROR(FindTask(task_).status());
    if (last_ < 2) return Status::InvalidArgument("--last is below 2, expected tokens to compare");
    if (!file_.empty() && !haystack_.empty()) {
      return Status::InvalidArgument("--haystack is the filler of --task, and --file is given");
    }
    attention_.shadow = 1;
    PQCACHE_ASSIGN_OR_RETURN(options_, attention_.OptionsFor(policy_));
    PQCACHE_RETURN_IF_ERROR(attention_.RefuseUnused(options_, policy_));
    if (options_.policy->drops()) {
      return Status::InvalidArgument("policy " + policy_ +
                                     " drops tokens, and its steps cannot be judged by them; "
                                     "expected another one, or pqcache eval");
    }
    return Status::Ok();
  }

  Result<Report> Run(bool) override {
    PQCACHE_ASSIGN_OR_RETURN(const Model model, LoadModel(model_));
    PQCACHE_ASSIGN_OR_RETURN(const attention::Tokenizer tokenizer, LoadTokenizer(model_.model));
    const int64_t limit = model.decoder->spec().max_positions;
    if (ctx_ == 0) ctx_ = std::min<int64_t>(16000, limit);
    if (ctx_ > limit || ctx_ <= last_ + 1) {
      return Status::InvalidArgument("--ctx is " + std::to_string(ctx_) +
                                     ", expected above --last " + std::to_string(last_) +
                                     ", at most the model's " + std::to_string(limit));
    }
    PQCACHE_ASSIGN_OR_RETURN(const std::vector<int64_t> tokens, Tokens(tokenizer));
    if (static_cast<int64_t>(tokens.size()) <= last_ + 1) {
      return Status::InvalidArgument("the text has " + std::to_string(tokens.size()) +
                                     " tokens, expected more than --last " + std::to_string(last_) +
                                     " and one");
    }
    PQCACHE_ASSIGN_OR_RETURN(const auto store, storage::OpenPageStore(attention_.store));
    PQCACHE_ASSIGN_OR_RETURN(auto kept, attention_.StorageFor({options_}, store.get()));
    kept.value_only_pages = false;  // the exact side needs the keys
    return Compare(*model.decoder, kept, tokens);
  }

 private:
  Result<std::vector<int64_t>> Tokens(const attention::Tokenizer& tokenizer) const {
    if (!task_.empty()) return TaskTokens(tokenizer);
    PQCACHE_ASSIGN_OR_RETURN(const std::string text, ReadText(file_));
    PQCACHE_ASSIGN_OR_RETURN(std::vector<int64_t> tokens, tokenizer.Encode(text, true));
    if (static_cast<int64_t>(tokens.size()) < ctx_) {
      return Status::InvalidArgument(file_ + " has " + std::to_string(tokens.size()) +
                                     " tokens, expected at least --ctx " + std::to_string(ctx_));
    }
    tokens.resize(static_cast<size_t>(ctx_));
    return tokens;
  }

  Result<std::vector<int64_t>> TaskTokens(const attention::Tokenizer& tokenizer) const {
    PQCACHE_ASSIGN_OR_RETURN(const TaskEntry* entry, FindTask(task_));
    PQCACHE_ASSIGN_OR_RETURN(const auto haystack, LoadHaystack(haystack_, ctx_, tokenizer));
    Random random(static_cast<uint64_t>(model_.seed));
    PQCACHE_ASSIGN_OR_RETURN(const EvalSample sample,
                             entry->generate({&tokenizer, haystack, ctx_, 0.5, 1, &random}));
    const EvalQuestion& question = sample.questions.front();
    std::vector<int64_t> tokens = sample.context;
    tokens.insert(tokens.end(), question.tokens.begin(), question.tokens.end());
    PQCACHE_ASSIGN_OR_RETURN(const auto answer,
                             tokenizer.Encode(question.references.answers.front(), false));
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    return tokens;
  }

  Result<Report> Compare(const attention::Decoder& decoder, const attention::SessionStorage& kept,
                         std::span<const int64_t> tokens) {
    const attention::ModelSpec& spec = decoder.spec();
    const auto prompt = tokens.first(tokens.size() - static_cast<size_t>(last_));
    const auto compared = tokens.last(static_cast<size_t>(last_));
    attention::CacheAttentionOptions exact_options = attention::ExactAttention();
    exact_options.needs = options_.policy->prompt_needs();
    PQCACHE_ASSIGN_OR_RETURN(const auto parent,
                             attention::Session::Create(&decoder, kept, std::move(exact_options)));
    double prefill_deviation = 0;
    {
      ProgressBar bar("prefill");
      attention::ReferenceAttention reference(parent->attention(), &parent->cache(), spec.heads,
                                              spec.sliding_window);
      parent->set_wrapper(&reference);
      PQCACHE_RETURN_IF_ERROR(
          parent->Prefill(prompt, 0, nullptr, [&](double done) { bar.Update(done); }));
      prefill_deviation = reference.deviation();
    }
    PQCACHE_ASSIGN_OR_RETURN(const auto exact, parent->Fork(attention::ExactAttention()));
    PQCACHE_ASSIGN_OR_RETURN(const auto approximate, parent->Fork(options_));
    attention::ReferenceAttention reference(exact->attention(), &exact->cache(), spec.heads,
                                            spec.sliding_window);
    exact->set_wrapper(&reference);
    LogitSums sums;
    std::vector<float> exact_logits, policy_logits;
    ProgressBar bar("compare");
    for (size_t i = 0; i + 1 < compared.size(); ++i) {
      PQCACHE_RETURN_IF_ERROR(exact->Step(compared[i], &exact_logits));
      PQCACHE_RETURN_IF_ERROR(approximate->Step(compared[i], &policy_logits));
      sums.Add(exact_logits, policy_logits, compared[i + 1]);
      bar.Update(static_cast<double>(i + 1) / static_cast<double>(compared.size()));
    }
    const double deviation = attention::LargerDeviation(prefill_deviation, reference.deviation());
    Report report = MakeReport(sums, approximate->stats(), deviation);
    if (options_.policy->score_source() == ScoreSource::kCodes) {
      ReportFit(FitOf(approximate->cache()), &report.json);
    }
    return report;
  }

  Report MakeReport(const LogitSums& sums, attention::AttentionStats stats,
                    double deviation) const {
    Report report;
    const double kl = sums.Mean(sums.kl);
    const double agreement = sums.Mean(static_cast<double>(sums.agree));
    const double ppl_exact = std::exp(sums.Mean(sums.exact_loss));
    const double ppl_policy = std::exp(sums.Mean(sums.policy_loss));
    std::vector<std::string> failed;
    const auto require = [&](bool met, const char* what, double found, const char* relation,
                             double limit) {
      char text[160];
      std::snprintf(text, sizeof(text), "%s is %.4g, expected %s %.4g", what, found, relation,
                    limit);
      if (!met) failed.push_back(text);
    };
    require(deviation <= kReferenceTolerance, "the exact path's deviation from double precision",
            deviation, "at most", kReferenceTolerance);
    require(kl <= max_kl_, "the KL divergence", kl, "at most", max_kl_);
    require(agreement >= min_agreement_, "the share of equal top tokens", agreement, "at least",
            min_agreement_);
    const attention::HeadStats total = stats.Total();
    require(total.disproved == 0, "the number of certified selections that are not exact",
            static_cast<double>(total.disproved), "at most", 0);
    report.passed = failed.empty();

    char line[256];
    Json layers = Json::Array();
    report.text = "layer   recall   mass attended   output error   worst head: recall, error\n";
    for (int l = 0; l < stats.layers; ++l) {
      Json heads = Json::Array();
      double worst_recall = 1, worst_error = 0;
      for (int h = 0; h < stats.kv_heads; ++h) {
        Json head = HeadJson(stats.at(l, h));
        worst_recall = std::min(worst_recall, head.Find("recall")->AsDouble());
        worst_error = std::max(worst_error, head.Find("output_error")->AsDouble());
        heads.Push(std::move(head.Set("kv_head", h)));
      }
      Json layer = HeadJson(stats.Layer(l));
      std::snprintf(line, sizeof(line), "%5d %7.1f %% %13.2f %% %12.2f %% %14.1f %%, %6.2f %%\n", l,
                    100 * layer.Find("recall")->AsDouble(), 100 * layer.Find("mass")->AsDouble(),
                    100 * layer.Find("output_error")->AsDouble(), 100 * worst_recall,
                    100 * worst_error);
      report.text += line;
      layers.Push(std::move(layer.Set("layer", l).Set("heads", std::move(heads))));
    }
    const Json totals = StatsToJson(stats);
    const auto add = [&](const char* what, const char* format, double value, const char* note) {
      char number[64];
      std::snprintf(number, sizeof(number), format, value);
      std::snprintf(line, sizeof(line), "%-44s %12s   %s\n", what, number, note);
      report.text += line;
    };
    report.text += "\n";
    add("tokens of context", "%.0f", static_cast<double>(ctx_), "");
    add("next-token distributions compared", "%.0f", static_cast<double>(sums.tokens), "");
    add("attended exactly per step", "%.0f",
        totals.Find("always")->AsDouble() + totals.Find("selected")->AsDouble(), "tokens");
    if (total.ranked > 0) {
      add("read to rank by exact keys per step", "%.0f", totals.Find("ranked")->AsDouble(),
          "tokens");
    }
    if (total.proofs > 0) {
      add("selections proven exact", "%.1f %%", 100 * totals.Find("certified")->AsDouble(),
          ("of " + std::to_string(total.proofs)).c_str());
      add("selected tokens proven to be of the best", "%.1f %%",
          100 * totals.Find("proven")->AsDouble(), "");
    }
    add("exact path against double precision", "%.1e", deviation, "largest deviation");
    add("top token equal to exact attention's", "%.1f %%", 100 * agreement, "");
    add("KL divergence of the next-token distribution", "%.4f", kl, "nats");
    add("perplexity, exact", "%.3f", ppl_exact, "");
    add("perplexity, this policy", "%.3f", ppl_policy, "");
    report.text += report.passed ? "PASS\n" : "";
    Json reasons = Json::Array();
    for (const std::string& reason : failed) {
      report.text += "FAIL: " + reason + "\n";
      reasons.Push(reason);
    }

    Json& j = report.json;
    j.Set("ctx", ctx_).Set("compared", sums.tokens).Set("policy", policy_);
    j.Set("layers", std::move(layers)).Set("attention", totals).Set("kl", kl);
    j.Set("top1_agreement", agreement).Set("ppl_exact", ppl_exact).Set("ppl_policy", ppl_policy);
    j.Set("reference_deviation", deviation).Set("pass", report.passed);
    j.Set("failed", std::move(reasons));
    return report;
  }

  static Json HeadJson(const attention::HeadStats& stats) {
    const double n = static_cast<double>(std::max<int64_t>(1, stats.shadow_steps));
    Json json;
    json.Set("recall", stats.recall / n).Set("mass", stats.mass / n);
    return json.Set("output_error", stats.output_error / n);
  }

  ModelFlags model_;
  AttentionFlags attention_;
  std::string policy_ = "pq", file_, task_, haystack_;
  int64_t ctx_ = 0, last_ = 64;
  double min_agreement_ = 0.9, max_kl_ = 0.1;
  attention::CacheAttentionOptions options_;
};

}  // namespace

std::unique_ptr<Command> CreateCheckCommand() { return std::make_unique<CheckCommand>(); }

}  // namespace pqcache::tools
