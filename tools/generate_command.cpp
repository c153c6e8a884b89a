// pqcache generate: prefill a prompt exactly, decode under a policy, stream the text.

#include <cstdio>
#include <functional>
#include <map>
#include <optional>

#include "attention/decoder/resumable_session.h"
#include "attention/decoder/token_sampler.h"
#include "attention/torch/gpu_session.h"
#include "pqcache/base/log.h"
#include "pqcache/cache/context_catalog.h"
#include "storage/memory_page_store.h"
#include "storage/stores.h"
#include "tools/commands.h"
#include "tools/model_flags.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

using BytesByTier = std::map<std::string, uint64_t>;

Json BytesRead(const BytesByTier& after, const BytesByTier& before) {
  Json read;
  read.Set("memory", 0).Set("rocksdb", 0).Set("resp", 0);
  for (const auto& [tier, bytes] : after) {
    const auto it = before.find(tier);
    const uint64_t earlier = it == before.end() ? 0 : it->second;
    read.Set(tier, static_cast<int64_t>(bytes - earlier));
  }
  return read;
}

class GenerateCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    model_.may_use_gpu = true;
    model_.Declare(flags);
    attention_.Declare(flags);
    flags->Text("--policy", &policy_, PolicyHelp());
    flags->Specs("--context", &contexts_,
                 "stored context that the prompt continues; it is decoded under the policy");
    flags->Text("--on-missing", &on_missing_, "a page that is lost: recompute or fail");
    flags->Count("--gpu-kv", &gpu_kv_,
                 "with --device cuda: bytes of keys and values on the GPU, the others lie in host "
                 "memory; 0: no limit");
    flags->Count("--shadow", &attention_.shadow, "judge every n-th step against exact attention");
    flags->Text("-p,--prompt", &prompt_, "prompt text");
    flags->Text("-f,--file", &file_, "file with the prompt");
    flags->Texts("--prompt-tokens", &token_texts_, "prompt as token ids: 1,2,3");
    flags->Count("-n,--predict", &new_tokens_, "tokens to generate at most");
    flags->Number("--temp", &sampling_.temperature, "temperature; 0: greedy");
    flags->Count("--top-k", &sampling_.top_k, "sample from the k most probable; 0: all");
    flags->Number("--top-p", &sampling_.top_p, "sample from the smallest set with this mass");
    flags->Number("--min-p", &sampling_.min_p, "drop tokens below this share of the best");
    flags->Switch("--ignore-eos", &ignore_eos_, "go on after an end-of-sequence token");
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(model_.Prepare());
    PQCACHE_RETURN_IF_ERROR(attention_.Prepare());
    PQCACHE_RETURN_IF_ERROR(sampling_.Validate());
    PQCACHE_RETURN_IF_ERROR(CheckRange("--gpu-kv", gpu_kv_, 0, int64_t{1} << 50));
    if (gpu_kv_ > 0 && model_.device != "cuda") {
      return Status::InvalidArgument("--gpu-kv is given, expected --device cuda with it");
    }
    if (on_missing_ != "recompute" && on_missing_ != "fail") {
      return Status::InvalidArgument("--on-missing is '" + on_missing_ +
                                     "', expected recompute or fail");
    }
    if (!contexts_.empty()) {
      if (contexts_.size() > 1) {
        return Status::InvalidArgument("--context is given twice, expected one name");
      }
      context_ = contexts_[0];
      PQCACHE_RETURN_IF_ERROR(CheckContextName(context_).Annotate("--context"));
      PQCACHE_RETURN_IF_ERROR(storage::CheckDurable(attention_.store).Annotate("--context"));
    }
    sampling_.seed = static_cast<uint64_t>(model_.seed);
    if (!prompt_.empty() + !file_.empty() + !token_texts_.empty() != 1) {
      return Status::InvalidArgument(
          "expected exactly one non-empty prompt: --prompt TEXT, --file FILE or --prompt-tokens "
          "IDS");
    }
    for (const std::string& text : token_texts_) {
      PQCACHE_ASSIGN_OR_RETURN(const int64_t id, ParseCount(text, "--prompt-tokens"));
      tokens_.push_back(id);
    }
    PQCACHE_ASSIGN_OR_RETURN(options_, attention_.OptionsFor(policy_));
    PQCACHE_RETURN_IF_ERROR(attention_.RefuseUnused(options_, policy_));
    if (options_.policy->drops() && attention_.shadow > 0) {
      return Status::InvalidArgument("policy " + policy_ +
                                     " drops tokens, and --shadow cannot judge its steps by them");
    }
    if (!context_.empty() && !CanReopen()) {
      return Status::InvalidArgument("policy " + policy_ +
                                     " has to see the prompt run, a stored --context does not");
    }
    return Status::Ok();
  }

  Result<Report> Run(bool json) override {
    stream_ = !json;
    return model_.device == "cuda" ? RunOnGpu() : RunOnCpu();
  }

 private:
  // What runs the prompt and, token by token, the answer.
  struct Runner {
    std::function<Status(std::vector<float>* logits)> prompt;
    std::function<Status(int64_t token, std::vector<float>* logits)> step;
  };

  // A policy that has seen nothing of the prompt can continue it.
  bool CanReopen() const { return !options_.policy->prompt_needs().any(); }

  Result<Report> RunOnCpu() {
    PQCACHE_ASSIGN_OR_RETURN(const Model model, LoadModel(model_));
    decoder_ = model.decoder.get();
    spec_ = &decoder_->spec();
    const auto mode = context_.empty() ? storage::OpenMode::kMakeIfMissing  // pages of this run
                                       : storage::OpenMode::kExisting;
    PQCACHE_ASSIGN_OR_RETURN(const auto store, OpenStore(attention_.store, mode));
    attention::ResumableOptions resumable;
    PQCACHE_ASSIGN_OR_RETURN(resumable.storage, attention_.StorageFor({options_}, store.get()));
    resumable.attention = options_;
    const ContextCatalog catalog(store.get(), resumable.storage.tenant);
    PQCACHE_RETURN_IF_ERROR(FindPrefix(catalog, resumable.storage));
    PQCACHE_RETURN_IF_ERROR(SetRecovery(&resumable));
    const Stopwatch opening;
    PQCACHE_ASSIGN_OR_RETURN(const auto session,
                             attention::ResumableSession::Create(decoder_, std::move(resumable),
                                                                 prefix_, prefix_tokens_));
    const Runner runner{
        [&](std::vector<float>* logits) {
          const Status status = RunPrompt(session.get(), logits);
          prefill_reads_ = session->bytes_read();
          return status;
        },
        [&](int64_t token, std::vector<float>* logits) { return session->Step(token, logits); }};
    PQCACHE_RETURN_IF_ERROR(Generate(opening, runner));
    return MakeReport(*session, *store);
  }

  // Flags that would ask for what is not there are refused. What only shapes the CPU's work
  // (threads, pages and their store) has no meaning.
  Status CheckGpuFlags() const {
    const auto refuse = [](const char* flag) {
      return Status::Unsupported(std::string(flag) + " is for --device cpu only");
    };
    if (!context_.empty()) return refuse("--context");
    if (attention_.store != "memory") return refuse("--store");
    if (attention_.shadow > 0) return refuse("--shadow");
    if (options_.widen_misfit) return refuse("--on-misfit widen");
    return Status::Ok();
  }

  Result<Report> RunOnGpu() {
    PQCACHE_RETURN_IF_ERROR(CheckGpuFlags());
    PQCACHE_ASSIGN_OR_RETURN(const auto model,
                             attention::GpuModel::Load(model_.model, model_.compute));
    spec_ = &model->spec();
    Log(LogLevel::kInfo, "model " + model_.model + ", family " + spec_->family + ", compute type " +
                             std::string(DTypeName(model->compute_dtype())) + ", on the GPU");
    PQCACHE_RETURN_IF_ERROR(EncodePrompt());
    PQCACHE_RETURN_IF_ERROR(CheckLength());
    attention::GpuSessionOptions options;
    options.max_tokens = static_cast<int64_t>(tokens_.size()) + new_tokens_;
    options.window = {static_cast<int>(attention_.n_sink),
                      static_cast<int>(attention_.local_window)};
    options.row_limit = static_cast<uint64_t>(gpu_kv_);
    options.attention.policy = options_.policy;
    options.attention.budget = options_.budget;
    options.attention.per_head = options_.per_head;
    options.attention.dense_layers = options_.dense_layers;
    options.attention.estimate_tail = options_.tail == TailMode::kEstimate;
    if (options_.policy->score_source() == ScoreSource::kCodes) {
      PQCACHE_ASSIGN_OR_RETURN(options.codebooks, LoadCodebooks(attention_.codebooks));
    }
    const Stopwatch opening;
    PQCACHE_ASSIGN_OR_RETURN(const auto session,
                             attention::GpuSession::Create(model.get(), std::move(options)));
    const Runner runner{
        [&](std::vector<float>* logits) { return session->Prefill(tokens_, logits); },
        [&](int64_t token, std::vector<float>* logits) { return session->Step(token, logits); }};
    PQCACHE_RETURN_IF_ERROR(Generate(opening, runner));
    Report report;
    Json& j = report.json;
    AddAnswer(&j);
    PQCACHE_ASSIGN_OR_RETURN(const attention::AttentionStats stats, session->Stats());
    j.Set("attention", StatsToJson(stats));
    j.Set("codebook_fit", Json());  // not measured there
    j.Set("gpu_kv_bytes", session->cache().device_bytes());
    j.Set("host_kv_bytes", session->cache().host_bytes());
    j.Set("peak_rss_bytes", PeakRssBytes());
    return Finished(std::move(report));
  }

  Status EncodePrompt() {
    if (token_texts_.empty()) {
      PQCACHE_ASSIGN_OR_RETURN(attention::Tokenizer tokenizer, LoadTokenizer(model_.model));
      tokenizer_ = std::make_unique<attention::Tokenizer>(std::move(tokenizer));
      if (!file_.empty()) {
        PQCACHE_ASSIGN_OR_RETURN(prompt_, ReadText(file_));
      }
      // A continuation does not begin with a beginning-of-sequence token.
      PQCACHE_ASSIGN_OR_RETURN(tokens_, tokenizer_->Encode(prompt_, context_.empty()));
    }
    return Status::Ok();
  }

  // The stored context that was asked for, or the one that shares the most with the prompt.
  Status FindPrefix(const ContextCatalog& catalog, const attention::SessionStorage& kept) {
    if (!context_.empty()) {
      PQCACHE_ASSIGN_OR_RETURN(ContextManifest manifest, catalog.Find(context_));
      PQCACHE_ASSIGN_OR_RETURN(prefix_tokens_, catalog.ReadTokens(manifest));
      const int64_t tokens = manifest.tokens;
      prefix_ = StoredPrefix{std::move(manifest), tokens};
      PQCACHE_RETURN_IF_ERROR(EncodePrompt());
    } else {
      PQCACHE_RETURN_IF_ERROR(EncodePrompt());
      // At least one token has to run, for its logits.
      const auto limit = static_cast<int64_t>(tokens_.size()) - 1;
      const ContextIdentity identity = attention::Session::IdentityFor(*decoder_, kept);
      std::optional<StoredCodes> codes;
      if (kept.codebooks != nullptr) codes = StoredCodesOf(kept.codebooks.get());
      if (identity.page.layout == PageLayout::kKeyValue && CanReopen()) {
        PQCACHE_RETURN_IF_ERROR(MatchPrefix(catalog, identity, codes, limit));
      }
      if (prefix_.has_value()) {
        prefix_tokens_.assign(tokens_.begin(), tokens_.begin() + prefix_->tokens);
        tokens_.erase(tokens_.begin(), tokens_.begin() + prefix_->tokens);
      }
    }
    return CheckLength();
  }

  // The prompt can be computed without a store that is out of reach.
  Status MatchPrefix(const ContextCatalog& catalog, const ContextIdentity& identity,
                     const std::optional<StoredCodes>& codes, int64_t limit) {
    Result<std::optional<StoredPrefix>> match = catalog.Match(identity, codes, tokens_, limit);
    if (match.ok()) {
      prefix_ = *std::move(match);
    } else if (match.status().code() == StatusCode::kIoError && on_missing_ == "recompute") {
      Log(LogLevel::kWarning, "stored contexts are not looked at: " + match.status().message());
    } else {
      return match.status();
    }
    return Status::Ok();
  }

  Status CheckLength() {
    const int64_t limit = spec_->max_positions;
    const auto prompt_tokens = static_cast<int64_t>(prefix_tokens_.size() + tokens_.size());
    if (tokens_.empty()) {
      return Status::InvalidArgument("the prompt has no tokens of its own, expected at least one");
    }
    if (attention::RetainedAttention::BoundsDistances(options_)) return Status::Ok();
    if (prompt_tokens > limit) {
      return Status::InvalidArgument("the prompt has " + std::to_string(prompt_tokens) +
                                     " tokens, " + std::to_string(prefix_tokens_.size()) +
                                     " of them stored, expected 1 to the model's " +
                                     std::to_string(limit));
    }
    if (new_tokens_ > limit - prompt_tokens) {
      Log(LogLevel::kWarning, "the model has " + std::to_string(limit) +
                                  " positions: " + std::to_string(limit - prompt_tokens) + " of " +
                                  std::to_string(new_tokens_) + " tokens can be generated");
      new_tokens_ = limit - prompt_tokens;
    }
    return Status::Ok();
  }

  Status SetRecovery(attention::ResumableOptions* options) const {
    options->on_missing =
        on_missing_ == "fail" ? attention::OnMissing::kFail : attention::OnMissing::kRecompute;
    options->make_memory_store = [] {
      return std::make_unique<storage::MemoryPageStore>(storage::kNoMemoryLimit);
    };
    if (!prefix_.has_value() || prefix_->tokens != prefix_->manifest.tokens) return Status::Ok();
    // The policy may do without codes, the stored context does not.
    if (options->storage.codebooks == nullptr && !attention_.codebooks.empty()) {
      PQCACHE_ASSIGN_OR_RETURN(const auto codebooks, LoadCodebooks(attention_.codebooks));
      const bool same = StoredCodesOf(codebooks.get()) == prefix_->manifest.codes;
      if (same) options->stored_codebooks = codebooks;
    }
    options->on_recomputed = [this](attention::Session* session) {
      const std::string name = "stored context " + prefix_->manifest.name;
      const Status status = Mend(session);
      Log(LogLevel::kWarning,
          status.ok() ? name + " was mended" : name + " could not be mended: " + status.message());
    };
    return Status::Ok();
  }

  // The stored context is replaced by the one that was computed again.
  Status Mend(attention::Session* session) const {
    const ContextManifest& stored = prefix_->manifest;
    if (session->cache().stored_codes() != stored.codes) {
      return Status::InvalidArgument("its codes are of codebooks " + stored.codes.codebooks.Hex() +
                                     ", expected those with --codebooks");
    }
    return session->Save(stored.name, prefix_tokens_, stored).status();
  }

  // Runs the prompt: exactly, or under the policy behind a stored context.
  Status RunPrompt(attention::ResumableSession* session, std::vector<float>* logits) {
    const bool too_long = static_cast<int64_t>(tokens_.size()) > spec_->max_positions;
    if (!context_.empty() || too_long) return session->Ask(tokens_, logits);
    ProgressBar bar("prefill");
    return session->Prefill(tokens_, 1, logits, [&](double done) { bar.Update(done); });
  }

  Status Generate(const Stopwatch& start, const Runner& runner) {
    std::vector<float> logits;
    PQCACHE_RETURN_IF_ERROR(runner.prompt(&logits));
    attention::TokenSampler sampler(sampling_);
    std::optional<attention::StreamDecoder> text;  // absent without a tokenizer
    if (tokenizer_ != nullptr) text.emplace(tokenizer_.get(), true);
    Stopwatch last;
    while (static_cast<int64_t>(generated_.size()) < new_tokens_) {
      const int64_t token = sampler.Pick(logits);
      if (generated_.empty()) ttft_ms_ = start.milliseconds();
      generated_.push_back(token);
      PQCACHE_RETURN_IF_ERROR(Print(token, text.has_value() ? &*text : nullptr));
      const auto& ends = spec_->eos_tokens;
      const bool ended = std::find(ends.begin(), ends.end(), token) != ends.end();
      if (ended && !ignore_eos_) break;
      if (static_cast<int64_t>(generated_.size()) == new_tokens_) break;
      if (generated_.size() == 1) last.Restart();
      PQCACHE_RETURN_IF_ERROR(runner.step(token, &logits));
    }
    const auto gaps = static_cast<double>(generated_.size()) - 1;
    if (gaps > 0) tpot_ms_ = last.milliseconds() / gaps;
    if (!text.has_value()) return Status::Ok();
    PQCACHE_ASSIGN_OR_RETURN(const std::string rest, text->Finish());
    return Emit(rest);
  }

  Status Print(int64_t token, attention::StreamDecoder* text) {
    if (text == nullptr) {
      return Emit((generated_.size() > 1 ? "," : "") + std::to_string(token));
    }
    PQCACHE_ASSIGN_OR_RETURN(const std::string piece, text->Push(token));
    return Emit(piece);
  }

  Status Emit(const std::string& piece) {
    text_ += piece;
    if (!stream_) return Status::Ok();
    const bool written = std::fwrite(piece.data(), 1, piece.size(), stdout) == piece.size();
    if (!written || std::fflush(stdout) != 0) return Status::IoError("cannot write to stdout");
    return Status::Ok();
  }

  Result<Report> MakeReport(const attention::ResumableSession& resumable, const PageStore& opened) {
    const attention::Session& session = *resumable.session();
    const PageStore& store = resumable.store();
    Report report;
    Json& j = report.json;
    AddAnswer(&j);
    j.Set("cached_tokens", resumable.recomputations() > 0 ? 0 : prefix_tokens_.size());
    j.Set("attention", StatsToJson(session.stats()));
    if (options_.policy->score_source() == ScoreSource::kCodes) {
      ReportFit(FitOf(session.cache()), &j);
    }
    const PageStoreStats stats = store.stats();
    // Of the decode steps, and before the first token: an exact prefill reads every earlier page
    // once per chunk.
    j.Set("bytes_read", BytesRead(resumable.bytes_read(), prefill_reads_));
    j.Set("bytes_read_prefill", BytesRead(prefill_reads_, {}));
    const PageStoreStats misses = opened.stats();
    j.Set("recomputations", resumable.recomputations());
    j.Set("missing_pages", static_cast<int64_t>(misses.missing_pages));
    j.Set("damaged_pages", static_cast<int64_t>(misses.damaged_pages));
    j.Set("unreachable_pages", static_cast<int64_t>(misses.unreachable_pages));
    j.Set("prefetched_pages", static_cast<int64_t>(stats.prefetched_pages));
    j.Set("peak_rss_bytes", PeakRssBytes());
    j.Set("kv_bytes_full", session.full_bytes());
    const ScoreSource source = options_.policy->score_source();
    j.Set("kv_bytes_resident", session.memory_bytes_for(source) + stats.resident_bytes);
    j.Set("kv_bytes_resident_peak", stats.peak_resident_bytes);
    return Finished(std::move(report));
  }

  void AddAnswer(Json* j) const {
    Json ids = Json::Array();
    for (int64_t token : generated_) ids.Push(token);
    j->Set("text", text_).Set("tokens", std::move(ids));
    j->Set("prompt_tokens", prefix_tokens_.size() + tokens_.size());
    j->Set("new_tokens", generated_.size()).Set("ttft_ms", ttft_ms_).Set("tpot_ms", tpot_ms_);
    j->Set("tokens_per_second", tpot_ms_ > 0 ? 1000.0 / tpot_ms_ : 0.0);
  }

  Result<Report> Finished(Report report) {
    const Json& j = report.json;
    if (stream_) {
      PQCACHE_RETURN_IF_ERROR(Emit("\n"));  // the streamed text has no end of line of its own
      Log(LogLevel::kInfo, j.Dump(1));
      // Not into the text that is on stdout.
      if (attention_.shadow > 0) std::fputs((j.Find("attention")->Dump(1) + "\n").c_str(), stderr);
    }
    return report;
  }

  ModelFlags model_;
  AttentionFlags attention_;
  attention::SamplingOptions sampling_;
  std::string policy_ = "pq", prompt_, file_, context_, on_missing_ = "recompute";
  std::vector<std::string> token_texts_, contexts_;
  int64_t new_tokens_ = 128, gpu_kv_ = 0;
  bool ignore_eos_ = false;

  attention::CacheAttentionOptions options_;
  const attention::Decoder* decoder_ = nullptr;  // on the CPU
  const attention::ModelSpec* spec_ = nullptr;
  std::unique_ptr<attention::Tokenizer> tokenizer_;
  bool stream_ = false;
  std::optional<StoredPrefix> prefix_;
  std::vector<int64_t> prefix_tokens_, tokens_, generated_;
  std::string text_;
  BytesByTier prefill_reads_;
  double ttft_ms_ = 0, tpot_ms_ = 0;
};

}  // namespace

std::unique_ptr<Command> CreateGenerateCommand() { return std::make_unique<GenerateCommand>(); }

}  // namespace pqcache::tools
