#include "tools/model_flags.h"

#include <sys/resource.h>

#include <algorithm>
#include <thread>

#include "pqcache/base/file_io.h"
#include "pqcache/base/log.h"
#include "pqcache/cache/manifest.h"

namespace pqcache::tools {
namespace {

constexpr double kDefaultRatio = 0.02;

Status CheckWord(const char* name, const std::string& value, const char* first,
                 const char* second) {
  if (value == first || value == second) return Status::Ok();
  return Status::InvalidArgument(std::string(name) + " is '" + value + "', expected " + first +
                                 " or " + second);
}

Json Mean(double sum, int64_t count) {
  return count == 0 ? Json() : Json(sum / static_cast<double>(count));
}

}  // namespace

Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return Status::Ok();
  return Status::InvalidArgument(std::string(name) + " is " + std::to_string(value) +
                                 ", expected " + std::to_string(low) + " to " +
                                 std::to_string(high));
}

Status CheckShare(const char* name, double value) {
  if (value >= 0 && value <= 1) return Status::Ok();
  return Status::InvalidArgument(std::string(name) + " is " + std::to_string(value) +
                                 ", expected 0 to 1");
}

void ModelFlags::Declare(Flags* flags) {
  flags->Text("-m,--model", &model, "Hugging Face directory");
  flags->Count("-t,--threads", &threads, "threads (0: one per core)");
  flags->Text("--dtype", &dtype, "compute type: auto, float32 or bfloat16");
  flags->Text("--device", &device, may_use_gpu ? "cpu or cuda" : "cpu");
  flags->Count("--seed", &seed, "seed of everything random");
}

Status ModelFlags::Prepare() {
  if (model.empty()) return Status::InvalidArgument("--model is absent, expected a directory");
  if (device == "cuda" && may_use_gpu) {
    PQCACHE_RETURN_IF_ERROR(FirstGpu().status());
  } else if (device != "cpu") {
    return Status::InvalidArgument("--device is '" + device + "', expected cpu" +
                                   (may_use_gpu ? " or cuda" : " for this command"));
  }
  PQCACHE_RETURN_IF_ERROR(CheckRange("--threads", threads, 0, 1024));
  PQCACHE_ASSIGN_OR_RETURN(compute, attention::ParseComputeDType(dtype));
  threads = ThreadsOf(threads);
  return Status::Ok();
}

Result<attention::GpuInfo> FirstGpu() {
  Result<std::vector<attention::GpuInfo>> gpus = attention::ListGpus();
  if (!gpus.ok()) return gpus.status().Annotate("--device is 'cuda'");
  if (gpus->empty()) return Status::Unsupported("--device is 'cuda', but there is no GPU here");
  return gpus->front();
}

int ThreadsOf(int64_t threads) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  return static_cast<int>(threads);
}

Result<Model> LoadModel(const ModelFlags& flags) {
  Model model;
  model.pool = std::make_unique<ThreadPool>(static_cast<int>(flags.threads));
  PQCACHE_ASSIGN_OR_RETURN(model.decoder,
                           attention::Decoder::Load(flags.model, flags.compute, model.pool.get()));
  Log(LogLevel::kInfo, "model " + flags.model + ", family " + model.decoder->spec().family +
                           ", compute type " +
                           std::string(DTypeName(model.decoder->compute_dtype())) + ", " +
                           std::to_string(flags.threads) + " threads");
  return model;
}

std::string TokenizerPath(const std::string& model_dir) { return model_dir + "/tokenizer.json"; }

Result<attention::Tokenizer> LoadTokenizer(const std::string& model_dir) {
  return attention::Tokenizer::Load(TokenizerPath(model_dir));
}

std::string PolicyHelp() {
  std::string help = "attention policy. ";
  for (const PolicyEntry& entry : Policies()) {
    help += (&entry == Policies().data() ? "" : "; ") + std::string(entry.name) + ": " +
            std::string(entry.help);
  }
  return help;
}

void DeclareStoreFlags(Flags* flags, std::string* store, std::string* cache_salt) {
  std::string tiers;
  for (const storage::PageStoreEntry& entry : storage::PageStores()) {
    tiers += (tiers.empty() ? "" : "; ") + std::string(entry.name) + ": " + std::string(entry.help);
  }
  flags->Text("--store", store, "where pages live, tiers joined by +, fastest first. " + tiers);
  flags->Text("--cache-salt", cache_salt,
              "stored contexts are shared only among those who give the same salt");
}

Result<std::unique_ptr<PageStore>> OpenStore(const std::string& spec, storage::OpenMode mode) {
  Result<std::unique_ptr<PageStore>> store = storage::OpenPageStore(spec, mode);
  PQCACHE_RETURN_IF_ERROR(AdviseRepair(store.status(), spec));
  PQCACHE_RETURN_IF_ERROR((*store)->RemoveUnreferenced());
  return store;
}

Status AdviseRepair(const Status& status, const std::string& store_spec) {
  if (status.code() != StatusCode::kCorruption) return status;
  return Status::Corruption(status.message() + "; 'pqcache context repair --store " + store_spec +
                            " --into NEW' copies what can be read");
}

void AttentionFlags::Declare(Flags* flags) {
  DeclareStorage(flags);
  flags->Count("--attn-top-k", &top_k, "select this many tokens");
  flags->Number("--attn-ratio", &ratio,
                "select this share of the context (0.02 when no budget is given)");
  flags->Number("--attn-mass", &mass,
                "select until this share of the mass is reached (pq, flat); one of those above is "
                "then the most");
  flags->Count("--dense-layers", &dense_layers, "first layers that attend exactly");
  flags->Text("--tail", &tail, "unselected tokens: drop or estimate");
  flags->Text(
      "--on-misfit", &on_misfit,
      "heads that the codebooks do not fit: warn, or widen: warn and rank four times as many "
      "tokens by their exact keys (pq, a budget of tokens or a ratio)");
  flags->Text("--gqa", &gqa, "query heads of a group select: shared or per-head");
}

void AttentionFlags::DeclareStorage(Flags* flags) {
  flags->Text("--codebooks", &codebooks, "codebook file, for policies that score codes");
  flags->Count("--n-sink", &n_sink, "first tokens that are always attended");
  flags->Count("--local-window", &local_window, "newest tokens that are always attended");
  DeclareStoreFlags(flags, &store, &cache_salt);
  flags->Count("--page-tokens", &page_tokens, "tokens of a page");
}

Status AttentionFlags::Prepare() {
  PQCACHE_RETURN_IF_ERROR(CheckRange("--n-sink", n_sink, 0, 1 << 20));
  PQCACHE_RETURN_IF_ERROR(CheckRange("--local-window", local_window, 1, 1 << 20));
  PQCACHE_RETURN_IF_ERROR(CheckRange("--dense-layers", dense_layers, 0, 1024));
  PQCACHE_RETURN_IF_ERROR(CheckRange("--page-tokens", page_tokens, 1, 4096));
  PQCACHE_RETURN_IF_ERROR(CheckRange("--shadow", shadow, 0, 1 << 30));
  PQCACHE_RETURN_IF_ERROR(CheckWord("--tail", tail, "drop", "estimate"));
  PQCACHE_RETURN_IF_ERROR(CheckWord("--gqa", gqa, "shared", "per-head"));
  PQCACHE_RETURN_IF_ERROR(CheckWord("--on-misfit", on_misfit, "warn", "widen"));
  const bool has_ratio = ratio != -1, has_mass = mass != -1, has_top_k = top_k != -1;
  if (has_ratio) PQCACHE_RETURN_IF_ERROR(CheckShare("--attn-ratio", ratio));
  if (has_mass) PQCACHE_RETURN_IF_ERROR(CheckShare("--attn-mass", mass));
  if (has_top_k && has_ratio) {
    return Status::InvalidArgument("--attn-top-k and --attn-ratio are given, expected one of them");
  }
  if (has_mass && (top_k == 0 || ratio == 0)) {
    return Status::InvalidArgument(
        "--attn-mass with a most of 0 tokens selects none, expected more, or neither --attn-top-k "
        "nor --attn-ratio");
  }
  if (has_mass && on_misfit == "widen") {
    return Status::InvalidArgument(
        "--on-misfit widen with --attn-mass, which learns how much the codes miss; expected "
        "--attn-top-k or --attn-ratio");
  }
  budget = {.tokens = has_top_k ? top_k : 0,
            .ratio = has_ratio               ? ratio
                     : has_top_k || has_mass ? 0
                                             : kDefaultRatio,
            .mass = has_mass ? mass : 0};
  return Status::Ok();
}

Result<attention::CacheAttentionOptions> AttentionFlags::OptionsFor(
    const std::string& policy) const {
  attention::CacheAttentionOptions options;
  PQCACHE_ASSIGN_OR_RETURN(options.policy, CreatePolicy(policy));
  if (budget.mass > 0 && options.policy->uses_budget() && !options.policy->takes_mass()) {
    return Status::InvalidArgument("policy " + policy +
                                   " takes no --attn-mass, expected --attn-top-k or --attn-ratio");
  }
  if (options.policy->uses_budget()) options.budget = budget;
  options.per_head = gqa == "per-head";
  const bool scores = options.policy->score_source() != ScoreSource::kNone;
  options.tail = tail == "estimate" && scores ? TailMode::kEstimate : TailMode::kDrop;
  options.widen_misfit = on_misfit == "widen" && options.policy->gains_from_overfetch();
  options.dense_layers = static_cast<int>(dense_layers);
  // Where tokens are dropped, there is nothing to judge a step by.
  options.shadow_every = options.policy->drops() ? 0 : static_cast<int>(shadow);
  if (options.policy->score_source() == ScoreSource::kCodes && codebooks.empty()) {
    return Status::InvalidArgument("policy " + policy +
                                   " needs --codebooks FILE; pqcache train makes one");
  }
  return options;
}

Status AttentionFlags::RefuseUnused(const attention::CacheAttentionOptions& options,
                                    const std::string& policy) const {
  if (tail == "estimate" && options.tail == TailMode::kDrop) {
    return Status::InvalidArgument(
        "--tail estimate needs a policy with scores (pq, flat), and the policy is " + policy);
  }
  if (on_misfit == "widen" && !options.widen_misfit) {
    return Status::InvalidArgument(
        "--on-misfit widen needs a policy that selects by codes alone (pq, pq:rerank), and the "
        "policy is " +
        policy);
  }
  return Status::Ok();
}

Result<attention::SessionStorage> AttentionFlags::StorageFor(
    const std::vector<attention::CacheAttentionOptions>& policies, PageStore* page_store) const {
  attention::SessionStorage storage;
  storage.store = page_store;
  storage.n_sink = static_cast<int>(n_sink);
  storage.local_window = static_cast<int>(local_window);
  storage.page_tokens = static_cast<int>(page_tokens);
  storage.tenant = TenantOf(cache_salt);
  storage.value_sums = false;
  bool codes = false;
  for (const attention::CacheAttentionOptions& policy : policies) {
    codes = codes || policy.policy->score_source() == ScoreSource::kCodes;
    storage.keep_keys = storage.keep_keys || policy.policy->score_source() == ScoreSource::kKeys;
    storage.value_sums = storage.value_sums || policy.tail == TailMode::kEstimate;
  }
  storage.value_only_pages = policies.size() == 1 && policies.front().policy->codes_only();
  if (codes) {
    PQCACHE_ASSIGN_OR_RETURN(storage.codebooks, LoadCodebooks(codebooks));
  }
  return storage;
}

Result<std::string> ReadText(const std::string& path) { return ReadFile(path, uint64_t{1} << 30); }

uint64_t PeakRssBytes() {
  struct rusage usage;
  if (::getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

Json StatsToJson(const attention::AttentionStats& stats) {
  const attention::HeadStats t = stats.Total();
  Json json;
  json.Set("always", Mean(t.always, t.steps)).Set("scored", Mean(t.scored, t.steps));
  json.Set("selected", Mean(t.selected, t.steps)).Set("estimated", Mean(t.estimated, t.steps));
  json.Set("missed_mass", Mean(t.missed_mass, t.mass_steps));
  if (t.ranked > 0) json.Set("ranked", Mean(t.ranked, t.steps));
  if (t.proofs > 0) {
    json.Set("proofs", t.proofs).Set("proven", Mean(t.proven, t.proofs));
    json.Set("certified", Mean(static_cast<double>(t.certified), t.proofs));
  }
  if (t.shadow_steps > 0) {
    json.Set("recall", Mean(t.recall, t.shadow_steps)).Set("mass", Mean(t.mass, t.shadow_steps));
    json.Set("output_error", Mean(t.output_error, t.shadow_steps));
    if (t.proofs > 0) json.Set("disproved", t.disproved);
  }
  return json;
}

bool WarnOfMisfit(const CodebookFit& fit) {
  const std::string misfit = DescribeMisfit(fit);
  if (!misfit.empty()) Log(LogLevel::kWarning, misfit);
  return !misfit.empty();
}

void ReportFit(const CodebookFit& fit, Json* report) {
  if (fit.mean == 0) {
    report->Set("codebook_fit", Json());
    return;
  }
  Json json;
  json.Set("mean", fit.mean).Set("newest", fit.newest).Set("worst", fit.worst);
  json.Set("layer", fit.layer).Set("kv_head", fit.kv_head);
  report->Set("codebook_fit", std::move(json));
  WarnOfMisfit(fit);
}

}  // namespace pqcache::tools
