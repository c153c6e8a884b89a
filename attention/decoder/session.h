#pragma once

// One sequence running through a decoder: exact prefill, then decode steps under a policy.
// One thread at a time. Decoder, store and (for a fork) the parent session are borrowed.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attention/cache_attention.h"
#include "attention/decoder/decoder.h"
#include "attention/retained_attention.h"
#include "pqcache/cache/context_save.h"
#include "pqcache/cache/kv_cache.h"

namespace pqcache::attention {

// What the sequence's cache keeps; see KvCacheOptions.
struct SessionStorage {
  PageStore* store = nullptr;
  std::shared_ptr<const CodebookSet> codebooks;  // may be null
  int n_sink = 16;
  int local_window = 256;
  int page_tokens = 64;
  bool keep_keys = false;
  bool value_sums = true;
  bool value_only_pages = false;
  Fingerprint tenant;  // whose pages these are (TenantOf)
};

// Share of the prompt done, in [0, 1].
using PrefillProgress = std::function<void(double)>;

class Session {
 public:
  // Keys and values are stored in the decoder's compute dtype. `attention.heads` and
  // `attention.sliding_window` are filled in from the model. Refuses codebooks of another model.
  // With `prefix` the session begins behind those tokens of a stored context; its layers are read
  // while the first token runs. See KvCache::BeginLoad for errors.
  static Result<std::unique_ptr<Session>> Create(const Decoder* decoder,
                                                 const SessionStorage& storage,
                                                 CacheAttentionOptions attention,
                                                 std::optional<StoredPrefix> prefix = {});
  // What a stored context must equal for a session of this kind.
  static ContextIdentity IdentityFor(const Decoder& decoder, const SessionStorage& storage);
  // A second sequence that continues this one under another policy. This session must not be a
  // fork, must outlive it and must not run while the fork is made. What the policy has to know of
  // the prompt must have been among the needs of this session's options.
  Result<std::unique_ptr<Session>> Fork(CacheAttentionOptions attention) const;

  // Runs prompt tokens exactly, in chunks. Gives the logits of the last `logit_rows` of them
  // (at most the last chunk's; 0: none).
  Status Prefill(std::span<const int64_t> tokens, int64_t logit_rows, std::vector<float>* logits,
                 const PrefillProgress& progress = {});
  // Makes all tokens so far, `tokens`, a stored context. False if the name is taken. See
  // ContextSave for errors; the session goes on in any case.
  Result<bool> Save(const std::string& name, std::span<const int64_t> tokens,
                    std::optional<ContextManifest> replaced = {});
  // The first of the following two ends the prompt: a policy that drops tokens drops them then, and
  // their pages with them.
  // Runs one token under the policy; logits [vocab] predict the next.
  Status Step(int64_t token, std::vector<float>* logits);
  // Runs a question about the tokens so far under the policy, in as few steps as
  // CacheAttention::MaxStepTokens allows; the tokens of a step share one selection of the budget's
  // size, unless every head selects for itself. logits [vocab] are the last token's.
  Status Ask(std::span<const int64_t> tokens, std::vector<float>* logits);

  int64_t tokens() const { return tokens_; }
  // True once tokens were dropped: there is no cache then.
  bool dropped() const { return retained_ != nullptr; }
  const KvCache& cache() const { return *cache_; }
  bool missed_page() const { return !dropped() && cache_->missed_page(); }
  const AttentionStats& stats() const {
    return dropped() ? retained_->stats() : attention_->stats();
  }
  // Of the prompt's time, what went into recording that these needs are not about.
  double unneeded_record_ms(const PromptNeeds& needs) const {
    return dropped() || attention_->record() == nullptr ? 0
                                                        : attention_->record()->unneeded_ms(needs);
  }
  // Memory outside the store that a policy with this score source needs for this sequence.
  uint64_t memory_bytes_for(ScoreSource source) const;
  // Exact keys and values of all tokens so far, dropped or not.
  uint64_t full_bytes() const { return static_cast<uint64_t>(tokens_) * token_bytes_; }

  // Put between decoder and attention from the next call on; `wrapper` calls attention() and is
  // borrowed. nullptr removes it.
  void set_wrapper(AttentionBackend* wrapper) { wrapper_ = wrapper; }
  AttentionBackend* attention() { return attention_.get(); }  // null once tokens were dropped

  // Prompt tokens of one chunk.
  static constexpr int64_t kChunkTokens = 2048;

 private:
  explicit Session(const Decoder* decoder);
  Status Drop();
  int64_t MaxStepTokens() const;
  Status Run(std::span<const int64_t> tokens, int64_t logit_rows, std::vector<float>* logits);

  const Decoder* decoder_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<CacheAttention> attention_;
  std::optional<CacheAttentionOptions> dropping_;  // of a policy that will drop tokens
  std::unique_ptr<RetainedAttention> retained_;    // once it has; then the two above are null
  AttentionBackend* wrapper_ = nullptr;
  int64_t tokens_ = 0;
  uint64_t token_bytes_;  // exact keys and values of a token, all layers
  Status failed_;         // layers may disagree after a failure: every later call repeats it
};

// The exact policy, for sessions that only prefill or that judge others.
CacheAttentionOptions ExactAttention();

}  // namespace pqcache::attention
