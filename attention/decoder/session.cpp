#include "attention/decoder/session.h"

#include <algorithm>
#include <numeric>

namespace pqcache::attention {
namespace {

void FillFromModel(const ModelSpec& spec, CacheAttentionOptions* attention) {
  attention->heads = spec.heads;
  attention->sliding_window = spec.sliding_window;
  attention->rope = std::make_shared<Rope>(spec.rope);
}

KvCacheOptions CacheOptions(const Decoder& decoder, const SessionStorage& storage) {
  const ModelSpec& spec = decoder.spec();
  KvCacheOptions options;
  options.layers = static_cast<int>(spec.layers);
  options.kv_heads = spec.kv_heads;
  options.page.layout = storage.value_only_pages ? PageLayout::kValueOnly : PageLayout::kKeyValue;
  options.page.dtype = decoder.compute_dtype();
  options.page.dim = spec.head_dim;
  options.page.page_tokens = storage.page_tokens;
  options.n_sink = storage.n_sink;
  options.local_window = storage.local_window;
  options.keep_keys = storage.keep_keys;
  options.value_sums = storage.value_sums;
  options.context = NewContextId(storage.tenant, decoder.fingerprint());
  return options;
}

}  // namespace

Session::Session(const Decoder* decoder)
    : decoder_(decoder),
      token_bytes_(2 *
                   static_cast<uint64_t>(decoder->spec().layers * decoder->spec().kv_heads *
                                         decoder->spec().head_dim) *
                   DTypeSize(decoder->compute_dtype())) {}

Result<std::unique_ptr<Session>> Session::Create(const Decoder* decoder,
                                                 const SessionStorage& storage,
                                                 CacheAttentionOptions attention,
                                                 std::optional<StoredPrefix> prefix) {
  PQCACHE_RETURN_IF_ERROR(CheckModelOf(storage.codebooks.get(), decoder->fingerprint()));
  const ModelSpec& spec = decoder->spec();
  if (storage.n_sink > spec.max_positions || storage.local_window > spec.max_positions) {
    return Status::InvalidArgument("n_sink " + std::to_string(storage.n_sink) + ", local_window " +
                                   std::to_string(storage.local_window) +
                                   ", expected at most the model's " +
                                   std::to_string(spec.max_positions) + " tokens");
  }
  std::unique_ptr<Session> session(new Session(decoder));
  PQCACHE_ASSIGN_OR_RETURN(session->cache_,
                           KvCache::Create(CacheOptions(*decoder, storage), storage.codebooks,
                                           storage.store, decoder->pool()));
  FillFromModel(spec, &attention);
  if (attention.policy->drops()) {
    PQCACHE_RETURN_IF_ERROR(RetainedAttention::CheckOptions(attention));
    session->dropping_ = attention;
    attention.needs.Add(attention.policy->prompt_needs());
    attention.policy = ExactAttention().policy;  // until the prompt has ended
    attention.shadow_every = 0;
    attention.budget = {};
  }
  PQCACHE_ASSIGN_OR_RETURN(
      session->attention_,
      CacheAttention::Create(std::move(attention), session->cache_.get(), decoder->pool()));
  if (prefix.has_value()) {
    session->tokens_ = prefix->tokens;
    PQCACHE_RETURN_IF_ERROR(session->cache_->BeginLoad(*std::move(prefix)));
  }
  return session;
}

ContextIdentity Session::IdentityFor(const Decoder& decoder, const SessionStorage& storage) {
  const KvCacheOptions options = CacheOptions(decoder, storage);
  return {storage.tenant, decoder.fingerprint(), options.page, options.layers, options.kv_heads};
}

Result<bool> Session::Save(const std::string& name, std::span<const int64_t> tokens,
                           std::optional<ContextManifest> replaced) {
  PQCACHE_RETURN_IF_ERROR(failed_);
  if (dropped()) return Status::InvalidArgument("tokens were dropped, a stored context has all");
  const int layers = cache_->options().layers;
  PQCACHE_RETURN_IF_ERROR(cache_->WaitLayer(layers - 1));
  PQCACHE_ASSIGN_OR_RETURN(const auto save,
                           ContextSave::Begin(cache_.get(), name, tokens, std::move(replaced)));
  for (int layer = 0; layer < layers; ++layer) save->SaveLayer(layer);
  bool published = false;
  PQCACHE_RETURN_IF_ERROR(save->WaitSave(&published));
  return published;
}

Result<std::unique_ptr<Session>> Session::Fork(CacheAttentionOptions attention) const {
  if (dropped()) return Status::InvalidArgument("tokens were dropped, a fork needs all of them");
  PQCACHE_RETURN_IF_ERROR(cache_->WaitLayer(cache_->options().layers - 1));
  FillFromModel(decoder_->spec(), &attention);
  std::unique_ptr<Session> fork(new Session(decoder_));
  fork->tokens_ = tokens_;
  if (attention.policy->drops()) {
    PQCACHE_ASSIGN_OR_RETURN(
        fork->retained_, RetainedAttention::Create(std::move(attention), *cache_,
                                                   attention_->record().get(), decoder_->pool()));
    return fork;
  }
  const ContextId& own = cache_->options().context;
  PQCACHE_ASSIGN_OR_RETURN(fork->cache_, cache_->Fork(NewContextId(own.tenant, own.model)));
  PQCACHE_ASSIGN_OR_RETURN(fork->attention_,
                           CacheAttention::Create(std::move(attention), fork->cache_.get(),
                                                  decoder_->pool(), attention_->record()));
  fork->attention_->set_memory(attention_->memory());
  return fork;
}

Status Session::Drop() {
  PQCACHE_RETURN_IF_ERROR(cache_->WaitLayer(cache_->options().layers - 1));
  PQCACHE_ASSIGN_OR_RETURN(
      retained_,
      RetainedAttention::Create(*dropping_, *cache_, attention_->record().get(), decoder_->pool()));
  attention_ = nullptr;
  cache_ = nullptr;
  return Status::Ok();
}

uint64_t Session::memory_bytes_for(ScoreSource source) const {
  if (dropped()) return retained_->bytes();
  return cache_->memory_bytes_for(source) + attention_->policy_bytes();
}

int64_t Session::MaxStepTokens() const {
  return dropped() ? retained_->MaxStepTokens() : attention_->MaxStepTokens(tokens_);
}

Status Session::Prefill(std::span<const int64_t> tokens, int64_t logit_rows,
                        std::vector<float>* logits, const PrefillProgress& progress) {
  if (dropped()) {
    return Status::InvalidArgument("a second prompt after " + std::to_string(tokens_) +
                                   " tokens of which some were dropped, expected further tokens "
                                   "to run under the policy");
  }
  attention_->set_prefill(true);
  // Pages without keys cannot serve the exact prefill of a later chunk: one chunk takes all.
  const bool keyless = cache_->options().page.layout == PageLayout::kValueOnly;
  if (keyless && tokens_ > 0) {
    return Status::InvalidArgument("a second prefill after " + std::to_string(tokens_) +
                                   " tokens; without exact keys in the pages, expected one alone");
  }
  const size_t chunk = keyless ? tokens.size() : static_cast<size_t>(kChunkTokens);
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const auto part = tokens.subspan(begin, std::min(chunk, tokens.size() - begin));
    const bool last = begin + part.size() == tokens.size();
    const int64_t rows =
        last ? std::min<int64_t>(logit_rows, static_cast<int64_t>(part.size())) : 0;
    PQCACHE_RETURN_IF_ERROR(Run(part, rows, logits));
    if (progress) {
      progress(static_cast<double>(begin + part.size()) / static_cast<double>(tokens.size()));
    }
  }
  return Status::Ok();
}

Status Session::Step(int64_t token, std::vector<float>* logits) { return Ask({&token, 1}, logits); }

Status Session::Ask(std::span<const int64_t> tokens, std::vector<float>* logits) {
  if (dropping_.has_value() && !dropped()) PQCACHE_RETURN_IF_ERROR(Drop());
  if (!dropped()) attention_->set_prefill(false);
  while (!tokens.empty()) {
    const auto n = std::min(tokens.size(), static_cast<size_t>(MaxStepTokens()));
    const bool last = n == tokens.size();
    PQCACHE_RETURN_IF_ERROR(Run(tokens.first(n), last ? 1 : 0, logits));
    tokens = tokens.subspan(n);
  }
  return Status::Ok();
}

Status Session::Run(std::span<const int64_t> tokens, int64_t logit_rows,
                    std::vector<float>* logits) {
  PQCACHE_RETURN_IF_ERROR(failed_);
  std::vector<int64_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), tokens_);
  AttentionBackend* backend = wrapper_ != nullptr ? wrapper_
                              : dropped()         ? static_cast<AttentionBackend*>(retained_.get())
                                                  : attention_.get();
  const Status status = decoder_->Forward(tokens, positions, backend, logit_rows, logits);
  if (!status.ok()) {
    if (dropped() || missed_page() || cache_->tokens(0) != tokens_) failed_ = status;
    return status;
  }
  tokens_ += static_cast<int64_t>(tokens.size());
  return Status::Ok();
}

CacheAttentionOptions ExactAttention() {
  CacheAttentionOptions options;
  Result<std::unique_ptr<SelectionPolicy>> policy = CreatePolicy("exact");
  options.policy = std::move(policy).value();
  return options;
}

}  // namespace pqcache::attention
