#pragma once

// Makes the tokens of a KvCache a stored context. Its full pages of rows are in the store already,
// those of a stored context that it began with are shared; what is still in memory (window, open
// page, codes, value sums, token ids), and copies of the pages that a fork has of its parent, are
// written layer by layer on a thread of its own, and the manifest last, when all the rest is
// durable.
//
// Whatever fails, no context is visible and the cache goes on as before. Only if the store fails to
// tell whether the manifest was written, the context may be visible; its pages stay in any case.
// One thread at a time; the cache is borrowed, and the layers that were given to SaveLayer must not
// be appended to until WaitSave has returned.

#include <optional>
#include <span>
#include <string>

#include "pqcache/base/task_queue.h"
#include "pqcache/cache/kv_cache.h"
#include "pqcache/cache/manifest.h"

namespace pqcache {

class ContextSave {
 public:
  // InvalidArgument for a name that cannot be, or if `tokens` are not what the cache holds;
  // Unsupported for pages without keys and for heads with keys that are not finite.
  // `replaced`: the stored context of that name, whose place this one takes in one step. Then the
  // cache must not have begun with a stored context.
  static Result<std::unique_ptr<ContextSave>> Begin(KvCache* cache, const std::string& name,
                                                    std::span<const int64_t> tokens,
                                                    std::optional<ContextManifest> replaced = {});

  // Starts to write one layer; all of them have to be given once, in any order.
  void SaveLayer(int layer);
  // Waits for the layers, syncs the store and publishes. The cache then shares its pages with the
  // stored context, and those of a replaced one are given up. Nothing published, and OK with
  // `published` false, if the name was taken by then or what was to be replaced has changed.
  // NotFound if a stored context whose pages this one shares was removed meanwhile.
  Status WaitSave(bool* published);

  const ContextManifest& manifest() const { return manifest_; }

 private:
  ContextSave(KvCache* cache, ContextManifest manifest) : cache_(cache), manifest_(manifest) {}
  void Write(int layer);
  Status CopyBorrowedPages(int layer, int kv_head) const;
  Status WriteTokens();
  Status CheckShared() const;
  Result<bool> WriteManifest();

  KvCache* const cache_;
  ContextManifest manifest_;
  std::optional<ContextManifest> replaced_;
  std::vector<int64_t> tokens_;
  int layers_given_ = 0;
  Status status_;  // the first failure; of the queue's thread until Wait
  TaskQueue queue_;
};

}  // namespace pqcache
