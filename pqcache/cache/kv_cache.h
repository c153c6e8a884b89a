#pragma once

// Keys and values of one sequence, all layers: HeadCaches over one page store.
//
// Append in order of position, every layer the same tokens. Append of different layers must not
// run together; const functions may. The store is borrowed and must outlive the cache; codebooks
// are shared. Destruction removes the cache's own pages from the store: not those of a stored
// context that it began with or has become. After a failed Append the cache is incomplete: it can
// only be destroyed.

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pqcache/base/thread_pool.h"
#include "pqcache/cache/context_load.h"
#include "pqcache/cache/head_cache.h"
#include "pqcache/cache/manifest.h"
#include "pqcache/cache/page_store.h"
#include "pqcache/policy/selection_policy.h"

namespace pqcache {

struct KvCacheOptions {
  int layers = 0, kv_heads = 0;  // L, Hkv
  PageShape page;                // with D
  int n_sink = 16;
  int local_window = 256;
  bool keep_keys = false;  // hold float32 keys in memory, for policies that score exact keys
  bool value_sums = true;  // hold sums of values, for the tail estimate and for ContextSave
  ContextId context;       // whose pages these are; unique in the store
};

class KvCache {
 public:
  // `codebooks` may be null: then no codes are kept. Their shape must fit layers, heads and D.
  static Result<std::unique_ptr<KvCache>> Create(const KvCacheOptions& options,
                                                 std::shared_ptr<const CodebookSet> codebooks,
                                                 PageStore* store, ThreadPool* pool);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // A second sequence that continues this one: shares its full pages, copies the rest. This cache
  // must outlive the fork, and must not be appended to while the fork is made.
  Result<std::unique_ptr<KvCache>> Fork(const ContextId& context) const;

  // keys, values: [N, Hkv, D] float32.
  Status Append(int layer, int64_t n, const float* keys, const float* values);

  // Lets an empty cache begin with a stored prefix, which is read in the background: a layer is
  // there when WaitLayer has returned OK for it. InvalidArgument, naming the difference, if the
  // stored context is of another identity or lacks the codes that this cache keeps. After any other
  // failure WaitLayer gives it again.
  Status BeginLoad(StoredPrefix prefix);
  // Waits for a layer of the stored prefix; at once when there is nothing to wait for. A missing or
  // damaged page of it is the error, now and on every later call.
  Status WaitLayer(int layer);

  // What another cache must equal to share pages with this one, and whose codes these are.
  ContextIdentity identity() const;
  // Hashes the codebooks.
  StoredCodes stored_codes() const;
  // Of the first full pages, those that stored contexts own. Pages behind them go away with this
  // cache or with one that it was forked from.
  std::vector<PageOwner> stored_owners() const;
  // The full pages are those of this stored context from here on.
  void HandOver(const ContextManifest& stored);
  PageStore* store() const { return store_; }

  const KvCacheOptions& options() const { return options_; }
  int64_t tokens(int layer) const { return head(layer, 0).tokens(); }
  const HeadCache& head(int layer, int kv_head) const {
    return heads_[static_cast<size_t>(layer) * options_.kv_heads + kv_head];
  }

  // Reads full pages; the first failure, annotated with its page, if any failed. A page of another
  // shape is one: its identity alone does not say how to read it.
  Status ReadPages(std::span<PageRead> pages) const;
  // True once a page could not be read: whatever failed may succeed in a cache that is computed
  // anew.
  bool missed_page() const { return missed_page_; }
  // Rows [begin, end) of a head as float32: keys [end - begin, D] and values [end - begin, D],
  // wherever they lie. Keys that are neither in memory nor in pages are decoded from the codes.
  Status ReadRows(int layer, int kv_head, int64_t begin, int64_t end, float* keys,
                  float* values) const;

  // Memory outside the store (of a fork: its own), what of it a policy with this score source
  // needs, and what exact K and V of all tokens take.
  uint64_t memory_bytes() const;
  uint64_t memory_bytes_for(ScoreSource source) const;
  uint64_t full_bytes() const;

 private:
  KvCache(const KvCacheOptions& options, PageStore* store, ThreadPool* pool);
  Status PutFullPages(int layer);
  Status CheckUsable(int layer) const;
  Status ReserveMemory();
  HeadCacheOptions HeadOptions(int layer, int head) const;
  Status InstallLayer(int layer);

  KvCacheOptions options_;
  PageStore* store_;
  ThreadPool* pool_;
  std::shared_ptr<const CodebookSet> codebooks_;  // may be null
  uint64_t reserved_ = 0;
  mutable std::atomic<bool> missed_page_{false};
  std::vector<ContextId> borrowed_;    // of the caches that this one was forked from
  std::unique_ptr<ContextLoad> load_;  // while layers are missing
  int layers_loaded_ = 0;
  Status load_status_;
  std::vector<HeadCache> heads_;                    // [L, Hkv]
  std::vector<std::vector<PageWrite>> full_pages_;  // [Hkv], of the running Append
};

// A context id that no other cache has: of this tenant and model, and random.
ContextId NewContextId(const Fingerprint& tenant, const Fingerprint& model);

// Of the codebooks that a cache keeps codes of; zeros for none.
StoredCodes StoredCodesOf(const CodebookSet* codebooks);

}  // namespace pqcache
