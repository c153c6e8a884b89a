#pragma once

// Reads a stored context back layer by layer on a thread of its own, so that the first layers can
// be used while later ones are still being read: codes, value sums where they are kept, and the
// rows of sinks, window and open page. All other rows stay in the store and are read when attention
// wants them.
//
// TakeLayer may be called from one thread at a time. The store is borrowed.

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "pqcache/cache/head_cache.h"
#include "pqcache/cache/manifest.h"
#include "pqcache/cache/page_store.h"

namespace pqcache {

// The first `tokens` tokens of a stored context.
struct StoredPrefix {
  ContextManifest manifest;
  int64_t tokens = 0;
};

class ContextLoad {
 public:
  // `options(layer, head)` is how a head is kept; its page shape and codebook must be those of the
  // manifest. Reading starts at once.
  ContextLoad(StoredPrefix prefix, PageStore* store,
              std::function<HeadCacheOptions(int layer, int head)> options);
  // Waits for the layer that is being read, and reads no further.
  ~ContextLoad();
  ContextLoad(const ContextLoad&) = delete;
  ContextLoad& operator=(const ContextLoad&) = delete;

  // The heads of a layer; waits until they are read. Each layer can be taken once. A missing or
  // damaged page is the error of its layer.
  Result<std::vector<HeadCache>> TakeLayer(int layer);

 private:
  void ReadAll();
  Result<std::vector<HeadCache>> ReadLayer(int layer) const;

  const StoredPrefix prefix_;
  PageStore* const store_;
  const std::function<HeadCacheOptions(int, int)> options_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<int, Result<std::vector<HeadCache>>> ready_;
  int taken_ = 0;
  bool stopping_ = false;
  std::thread reader_;
};

}  // namespace pqcache
