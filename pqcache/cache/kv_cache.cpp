#include "pqcache/cache/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "pqcache/base/log.h"
#include "pqcache/cache/row_codec.h"
#include "pqcache/cache/stored_pages.h"

namespace pqcache {
namespace {

Status CheckCodebooks(const KvCacheOptions& o, const CodebookSet& set) {
  if (set.layers == o.layers && set.kv_heads == o.kv_heads && set.shape().dim == o.page.dim) {
    return Status::Ok();
  }
  const auto describe = [](int layers, int kv_heads, int dim) {
    return std::to_string(layers) + " layers, " + std::to_string(kv_heads) +
           " KV heads, head size " + std::to_string(dim);
  };
  return Status::InvalidArgument("codebooks are for " +
                                 describe(set.layers, set.kv_heads, set.shape().dim) +
                                 ", expected " + describe(o.layers, o.kv_heads, o.page.dim));
}

Status CheckOptions(const KvCacheOptions& o) {
  if (o.n_sink < 0 || o.local_window < 1) {
    return Status::InvalidArgument("n_sink " + std::to_string(o.n_sink) + ", local_window " +
                                   std::to_string(o.local_window) +
                                   ", expected at least 0 and at least 1");
  }
  if (o.page.page_tokens < 1 || o.page.page_tokens > kMaxPageTokens) {
    return Status::InvalidArgument("page_tokens is " + std::to_string(o.page.page_tokens) +
                                   ", expected 1 to " + std::to_string(kMaxPageTokens));
  }
  return Status::Ok();
}

// What a stored context is and what it should be; empty if they agree.
std::string DescribeDifference(const ContextIdentity& stored, const ContextIdentity& wanted) {
  const auto differ = [](const char* name, const std::string& of_stored, const std::string& here) {
    return std::string(name) + " is " + here + " here, expected " + of_stored +
           ", as it was stored";
  };
  if (stored.tenant != wanted.tenant) return "it is another tenant's";
  if (stored.model != wanted.model) {
    return differ("model", stored.model.Hex(), wanted.model.Hex());
  }
  if (stored.page.dtype != wanted.page.dtype) {
    return differ("dtype", std::string(DTypeName(stored.page.dtype)),
                  std::string(DTypeName(wanted.page.dtype)));
  }
  if (stored.page.layout != wanted.page.layout) {
    return differ("page layout", std::to_string(static_cast<int>(stored.page.layout)),
                  std::to_string(static_cast<int>(wanted.page.layout)));
  }
  const std::pair<const char*, std::pair<int, int>> counts[] = {
      {"head size", {stored.page.dim, wanted.page.dim}},
      {"page_tokens", {stored.page.page_tokens, wanted.page.page_tokens}},
      {"layers", {stored.layers, wanted.layers}},
      {"KV heads", {stored.kv_heads, wanted.kv_heads}}};
  for (const auto& [name, pair] : counts) {
    if (pair.first != pair.second) {
      return differ(name, std::to_string(pair.first), std::to_string(pair.second));
    }
  }
  return "";
}

std::string PageName(const PageKey& key) {
  return "layer " + std::to_string(key.layer) + " head " + std::to_string(key.head) + " page " +
         std::to_string(key.page);
}

}  // namespace

KvCache::KvCache(const KvCacheOptions& options, PageStore* store, ThreadPool* pool)
    : options_(options), store_(store), pool_(pool), full_pages_(options.kv_heads) {
  heads_.reserve(static_cast<size_t>(options.layers) * options.kv_heads);
}

Result<std::unique_ptr<KvCache>> KvCache::Create(const KvCacheOptions& options,
                                                 std::shared_ptr<const CodebookSet> codebooks,
                                                 PageStore* store, ThreadPool* pool) {
  PQCACHE_RETURN_IF_ERROR(CheckOptions(options));
  if (codebooks != nullptr) PQCACHE_RETURN_IF_ERROR(CheckCodebooks(options, *codebooks));
  if (options.page.layout == PageLayout::kValueOnly && codebooks == nullptr) {
    return Status::InvalidArgument("pages without keys need codebooks, and none were given");
  }
  std::unique_ptr<KvCache> cache(new KvCache(options, store, pool));
  cache->codebooks_ = std::move(codebooks);
  for (int layer = 0; layer < options.layers; ++layer) {
    for (int head = 0; head < options.kv_heads; ++head) {
      cache->heads_.emplace_back(cache->HeadOptions(layer, head));
    }
  }
  PQCACHE_RETURN_IF_ERROR(cache->ReserveMemory());
  return cache;
}

HeadCacheOptions KvCache::HeadOptions(int layer, int head) const {
  HeadCacheOptions h;
  h.page = options_.page;
  h.n_sink = options_.n_sink;
  h.local_window = options_.local_window;
  h.keep_keys = options_.keep_keys;
  h.value_sums = options_.value_sums;
  h.first_page = {options_.context, layer, head, 0};
  if (codebooks_ != nullptr) {
    h.codebook = std::shared_ptr<const HeadCodebook>(codebooks_, &codebooks_->head(layer, head));
  }
  return h;
}

KvCache::~KvCache() {
  load_ = nullptr;
  const Status released = store_->ReserveMemory(this, 0);
  PQCACHE_CHECK(released.ok(), "giving memory back cannot fail");
  const Status status = store_->RemoveContext(options_.context);
  if (!status.ok()) Log(LogLevel::kWarning, "pages were left in the store: " + status.message());
}

Result<std::unique_ptr<KvCache>> KvCache::Fork(const ContextId& context) const {
  PQCACHE_CHECK(load_ == nullptr, "layers of the stored prefix are still to come");
  KvCacheOptions options = options_;
  options.context = context;
  std::unique_ptr<KvCache> fork(new KvCache(options, store_, pool_));
  fork->codebooks_ = codebooks_;
  fork->borrowed_ = borrowed_;
  fork->borrowed_.push_back(options_.context);
  for (const HeadCache& head : heads_) fork->heads_.emplace_back(head, context);
  PQCACHE_RETURN_IF_ERROR(fork->ReserveMemory());
  return fork;
}

Status KvCache::Append(int layer, int64_t n, const float* keys, const float* values) {
  const int64_t stride = int64_t{options_.kv_heads} * options_.page.dim;
  HeadCache* heads = &heads_[static_cast<size_t>(layer) * options_.kv_heads];
  pool_->Run(options_.kv_heads, [&](int64_t h) {
    const int64_t offset = h * options_.page.dim;
    const bool was_finite = heads[h].finite();
    heads[h].Append(n, keys + offset, values + offset, stride, &full_pages_[h]);
    if (was_finite && !heads[h].finite()) {
      Log(LogLevel::kWarning, "layer " + std::to_string(layer) + " head " + std::to_string(h) +
                                  ": a key is NaN or infinite; this head attends exactly");
    }
  });
  PQCACHE_RETURN_IF_ERROR(CheckUsable(layer));
  PQCACHE_RETURN_IF_ERROR(PutFullPages(layer));
  return ReserveMemory();
}

// One batch for all heads: a store can write it in one piece.
Status KvCache::PutFullPages(int layer) {
  std::vector<PageWrite> batch;
  for (std::vector<PageWrite>& pages : full_pages_) {
    batch.insert(batch.end(), pages.begin(), pages.end());
    pages.clear();
  }
  if (batch.empty()) return Status::Ok();
  PQCACHE_RETURN_IF_ERROR(store_->Put(batch));
  if (!store_->keeps_pages_in_memory()) return Status::Ok();
  HeadCache* heads = &heads_[static_cast<size_t>(layer) * options_.kv_heads];
  for (const PageWrite& write : batch) heads[write.key.head].Hold(write);
  return Status::Ok();
}

ContextIdentity KvCache::identity() const {
  return {options_.context.tenant, options_.context.model, options_.page, options_.layers,
          options_.kv_heads};
}

Status KvCache::BeginLoad(StoredPrefix prefix) {
  PQCACHE_CHECK(heads_[0].tokens() == 0 && load_ == nullptr, "a load needs an empty cache");
  const ContextManifest& m = prefix.manifest;
  PQCACHE_CHECK(prefix.tokens >= 1 && prefix.tokens <= m.tokens, "tokens of the stored context");
  const std::string difference = DescribeDifference(m.identity, identity());
  if (!difference.empty()) {
    return Status::InvalidArgument("stored context " + m.name + ": " + difference);
  }
  const StoredCodes codes = stored_codes();
  if (codebooks_ != nullptr && m.codes != codes) {
    const std::string kept = m.codes.bytes_per_key == 0
                                 ? "it was stored without codes"
                                 : "its codes are of codebooks " + m.codes.codebooks.Hex();
    return Status::InvalidArgument("stored context " + m.name + ": " + kept + ", expected those " +
                                   codes.codebooks.Hex());
  }
  load_ = std::make_unique<ContextLoad>(
      std::move(prefix), store_, [this](int layer, int head) { return HeadOptions(layer, head); });
  // The first layer tells how much memory the others will take.
  load_status_ = InstallLayer(0);
  PQCACHE_RETURN_IF_ERROR(load_status_);
  uint64_t bytes = 0;
  for (int head = 0; head < options_.kv_heads; ++head) bytes += this->head(0, head).bytes();
  bytes *= static_cast<uint64_t>(options_.layers);
  load_status_ = store_->ReserveMemory(this, bytes);
  if (load_status_.ok()) reserved_ = bytes;
  return load_status_;
}

Status KvCache::WaitLayer(int layer) {
  while (load_ != nullptr && load_status_.ok() && layers_loaded_ <= layer) {
    load_status_ = InstallLayer(layers_loaded_);
  }
  if (layers_loaded_ == options_.layers) load_ = nullptr;
  return load_status_;
}

Status KvCache::InstallLayer(int layer) {
  Result<std::vector<HeadCache>> heads = load_->TakeLayer(layer);
  if (!heads.ok()) {
    missed_page_ = true;
    return heads.status();
  }
  const auto first = heads_.begin() + static_cast<int64_t>(layer) * options_.kv_heads;
  std::move(heads->begin(), heads->end(), first);
  ++layers_loaded_;
  return Status::Ok();
}

StoredCodes KvCache::stored_codes() const { return StoredCodesOf(codebooks_.get()); }

std::vector<PageOwner> KvCache::stored_owners() const {
  std::vector<PageOwner> owners = head(0, 0).page_owners();
  const auto goes_away = [&](const PageOwner& owner) {
    return owner.context == options_.context ||
           std::find(borrowed_.begin(), borrowed_.end(), owner.context) != borrowed_.end();
  };
  owners.erase(std::find_if(owners.begin(), owners.end(), goes_away), owners.end());
  return owners;
}

void KvCache::HandOver(const ContextManifest& stored) {
  options_.context = NewContextId(options_.context.tenant, options_.context.model);
  for (HeadCache& head : heads_) {
    head.HandOver(OwnersBelow(stored, head.full_pages()), options_.context);
  }
  borrowed_.clear();
}

Status KvCache::CheckUsable(int layer) const {
  if (options_.page.layout != PageLayout::kValueOnly) return Status::Ok();
  for (int h = 0; h < options_.kv_heads; ++h) {
    if (head(layer, h).finite()) continue;
    return Status::InvalidArgument("layer " + std::to_string(layer) + " head " + std::to_string(h) +
                                   ": a key is NaN or infinite, and pages without exact keys "
                                   "cannot attend exactly instead");
  }
  return Status::Ok();
}

Status KvCache::ReserveMemory() {
  if (load_ != nullptr) return Status::Ok();  // reserved for all layers
  const uint64_t bytes = memory_bytes();
  if (bytes == reserved_) return Status::Ok();
  PQCACHE_RETURN_IF_ERROR(store_->ReserveMemory(this, bytes));
  reserved_ = bytes;
  return Status::Ok();
}

Status KvCache::ReadPages(std::span<PageRead> pages) const {
  if (pages.empty()) return Status::Ok();
  store_->Read(pages);
  for (const PageRead& read : pages) {
    Status status = read.status;
    if (status.ok()) status = CheckPageShape(*read.page, options_.page, options_.page.page_tokens);
    if (status.ok()) continue;
    missed_page_ = true;
    return status.Annotate(PageName(read.key));
  }
  return Status::Ok();
}

Status KvCache::ReadRows(int layer, int kv_head, int64_t begin, int64_t end, float* keys,
                         float* values) const {
  const HeadCache& h = head(layer, kv_head);
  const PageShape& shape = options_.page;
  const int64_t dim = shape.dim;
  const bool keyless = shape.layout == PageLayout::kValueOnly;
  const int64_t value_offset = static_cast<int64_t>(DTypeSize(shape.dtype)) * dim;
  const auto copy = [&](const RowBlock& block, size_t stride, bool has_keys) {
    const int64_t first = std::max(begin, block.first);
    const int64_t last = std::min(end, block.first + block.count);
    for (int64_t t = first; t < last; ++t) {
      const uint8_t* row = block.rows + static_cast<size_t>(t - block.first) * stride;
      if (has_keys) LoadRow(row, dim, shape.dtype, keys + (t - begin) * dim);
      LoadRow(has_keys ? row + value_offset : row, dim, shape.dtype, values + (t - begin) * dim);
    }
  };
  for (const RowBlock& block : h.window()) copy(block, h.memory_row_bytes(), true);
  copy(h.open_page(), shape.row_bytes(), !keyless);

  std::vector<PageRead> reads;
  const int64_t paged_end = std::min(end, h.full_pages() * shape.page_tokens);
  for (int64_t p = begin / shape.page_tokens; p * shape.page_tokens < paged_end; ++p) {
    reads.push_back({h.page_key(p), nullptr, Status::Ok()});
  }
  PQCACHE_RETURN_IF_ERROR(ReadPages(reads));
  for (const PageRead& read : reads) {
    copy({PageRows(*read.page), read.key.page * shape.page_tokens, shape.page_tokens},
         shape.row_bytes(), !keyless);
  }
  const int64_t coded_end = std::min(end, h.paged_tokens());
  if (keyless && begin < coded_end) {
    h.codes()->Reconstruct(begin, coded_end, keys);
    copy(h.sinks(), h.memory_row_bytes(), true);
  }
  return Status::Ok();
}

uint64_t KvCache::memory_bytes() const {
  uint64_t bytes = 0;
  for (const HeadCache& head : heads_) bytes += head.bytes();
  return bytes;
}

uint64_t KvCache::memory_bytes_for(ScoreSource source) const {
  uint64_t bytes = memory_bytes();
  for (const HeadCache& head : heads_) {
    if (source != ScoreSource::kCodes && head.codes() != nullptr) bytes -= head.codes()->bytes();
    if (source != ScoreSource::kKeys && head.keys() != nullptr) bytes -= head.keys()->bytes();
  }
  return bytes;
}

uint64_t KvCache::full_bytes() const {
  uint64_t bytes = 0;
  for (const HeadCache& head : heads_) {
    bytes += static_cast<uint64_t>(head.tokens()) * head.memory_row_bytes();
  }
  return bytes;
}

StoredCodes StoredCodesOf(const CodebookSet* codebooks) {
  if (codebooks == nullptr) return {};
  return {CodebooksFingerprint(*codebooks), codebooks->shape().bytes_per_key()};
}

ContextId NewContextId(const Fingerprint& tenant, const Fingerprint& model) {
  std::random_device device;
  ContextId id{tenant, model, {}};
  for (uint8_t& byte : id.context.bytes) byte = static_cast<uint8_t>(device());
  return id;
}

}  // namespace pqcache
