#include "pqcache/cache/context_save.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "pqcache/base/check.h"
#include "pqcache/base/log.h"
#include "pqcache/base/vector_math.h"
#include "pqcache/cache/context_catalog.h"
#include "pqcache/cache/row_codec.h"
#include "pqcache/cache/stored_pages.h"

namespace pqcache {
namespace {

constexpr size_t kPagesPerCopy = 64;

// The pages of one head that are not in the store yet.
class HeadPages {
 public:
  HeadPages(const ContextManifest& manifest, const HeadCache& head, int layer, int kv_head)
      : manifest_(manifest), head_(head), layer_(layer), kv_head_(kv_head) {}

  void AddTo(std::vector<PageWrite>* pages) const {
    const int64_t page_tokens = manifest_.identity.page.page_tokens;
    const size_t row_bytes = manifest_.identity.page.row_bytes();
    const int64_t open = head_.full_pages() * page_tokens;
    std::vector<uint8_t> rows(static_cast<size_t>(manifest_.tokens - open) * row_bytes);
    for (int64_t t = open; t < manifest_.tokens; ++t) {
      std::memcpy(&rows[static_cast<size_t>(t - open) * row_bytes], RowAt(t), row_bytes);
    }
    Cut(PageKind::kRows, head_.full_pages(), rows, pages);
    if (head_.codes() != nullptr) Cut(PageKind::kCodes, 0, Codes(), pages);
    const std::vector<float> sums = ValueSums();
    const auto* bytes = reinterpret_cast<const uint8_t*>(sums.data());
    Cut(PageKind::kValueSums, 0, {bytes, sums.size() * sizeof(float)}, pages);
  }

 private:
  // Of a token in the open page or in the window.
  const uint8_t* RowAt(int64_t t) const {
    const auto windows = head_.window();
    for (const RowBlock& block : {head_.open_page(), windows[0], windows[1]}) {
      if (t >= block.first && t < block.first + block.count) {
        return block.rows + static_cast<size_t>(t - block.first) * head_.memory_row_bytes();
      }
    }
    PQCACHE_CHECK(false, "a token that is not in memory");
    return nullptr;
  }

  std::vector<uint8_t> Codes() const {
    const int64_t paged = head_.paged_tokens();
    const auto width = static_cast<size_t>(manifest_.codes.bytes_per_key);
    std::vector<uint8_t> codes(static_cast<size_t>(manifest_.tokens) * width);
    head_.codes()->CopyPacked(0, paged, codes.data());
    const PageShape& shape = manifest_.identity.page;
    std::vector<float> keys(static_cast<size_t>((manifest_.tokens - paged) * shape.dim));
    for (int64_t t = paged; t < manifest_.tokens; ++t) {
      LoadRow(RowAt(t), shape.dim, shape.dtype,
              &keys[static_cast<size_t>((t - paged) * shape.dim)]);
    }
    PqIndex window(head_.shared_codebook());
    window.Append(manifest_.tokens - paged, keys.data());
    window.CopyPacked(0, window.size(), codes.data() + static_cast<size_t>(paged) * width);
    return codes;
  }

  // Over all tokens of each complete block.
  std::vector<float> ValueSums() const {
    const int64_t dim = manifest_.identity.page.dim;
    const int64_t paged = head_.paged_tokens();
    std::vector<float> sums(static_cast<size_t>(manifest_.tokens / kValueBlockTokens * dim));
    for (size_t block = 0; block * static_cast<size_t>(dim) < sums.size(); ++block) {
      float* sum = &sums[block * static_cast<size_t>(dim)];
      const int64_t first = static_cast<int64_t>(block) * kValueBlockTokens;
      if (first < paged) std::copy_n(head_.value_sum(static_cast<int64_t>(block)), dim, sum);
      const RowBlock sinks = head_.sinks();
      for (int64_t t = first; t < std::min(sinks.count, first + kValueBlockTokens); ++t) {
        AddValue(sinks.rows + static_cast<size_t>(t) * head_.memory_row_bytes(), sum);
      }
      for (int64_t t = std::max(first, paged); t < first + kValueBlockTokens; ++t) {
        AddValue(RowAt(t), sum);
      }
    }
    return sums;
  }

  void AddValue(const uint8_t* row, float* sum) const {
    const PageShape& shape = manifest_.identity.page;
    std::vector<float> value(static_cast<size_t>(shape.dim));
    LoadRow(row + head_.memory_row_bytes() / 2, shape.dim, shape.dtype, value.data());
    AddScaled(1.0f, value.data(), shape.dim, sum);
  }

  // rows: those of pages `page` and behind.
  void Cut(PageKind kind, int64_t page, std::span<const uint8_t> rows,
           std::vector<PageWrite>* pages) const {
    const PageShape shape = StoredShape(manifest_, kind);
    const size_t page_bytes = static_cast<size_t>(shape.page_tokens) * shape.row_bytes();
    for (; !rows.empty(); ++page) {
      const auto body = rows.first(std::min(page_bytes, rows.size()));
      const PageKey key = {manifest_.id(), layer_, kv_head_, page, kind};
      const int count = static_cast<int>(body.size() / shape.row_bytes());
      pages->push_back({key, EncodePage(key, shape, count, body)});
      rows = rows.subspan(body.size());
    }
  }

  const ContextManifest& manifest_;
  const HeadCache& head_;
  const int layer_, kv_head_;
};

// Of all pages of the manifest.
uint64_t TotalBytes(const ContextManifest& manifest) {
  uint64_t bytes = 0;
  for (int layer : {-1, 0}) {  // all layers are alike
    uint64_t sum = 0;
    for (const PageKey& key : StoredPageKeys(manifest, layer)) {
      sum += kPageHeaderBytes + static_cast<uint64_t>(StoredRows(manifest, key)) *
                                    StoredShape(manifest, key.kind).row_bytes();
    }
    bytes += layer < 0 ? sum : sum * static_cast<uint64_t>(manifest.identity.layers);
  }
  return bytes;
}

Status CheckSavable(const KvCache& cache, size_t tokens) {
  const KvCacheOptions& o = cache.options();
  if (o.page.layout != PageLayout::kKeyValue) {
    return Status::Unsupported("a context without exact keys in its pages cannot be stored");
  }
  if (!o.value_sums) {
    return Status::InvalidArgument("the cache keeps no sums of values, expected them for saving");
  }
  for (int layer = 0; layer < o.layers; ++layer) {
    if (cache.tokens(layer) != static_cast<int64_t>(tokens) || tokens == 0) {
      return Status::InvalidArgument(
          "layer " + std::to_string(layer) + " holds " + std::to_string(cache.tokens(layer)) +
          " tokens, expected all " + std::to_string(tokens) + " of the context, and at least one");
    }
    for (int head = 0; head < o.kv_heads; ++head) {
      if (cache.head(layer, head).finite()) continue;
      return Status::Unsupported("layer " + std::to_string(layer) + " head " +
                                 std::to_string(head) +
                                 ": a key is NaN or infinite; such a context cannot be stored");
    }
  }
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<ContextSave>> ContextSave::Begin(KvCache* cache, const std::string& name,
                                                        std::span<const int64_t> tokens,
                                                        std::optional<ContextManifest> replaced) {
  PQCACHE_RETURN_IF_ERROR(CheckContextName(name));
  PQCACHE_RETURN_IF_ERROR(CheckSavable(*cache, tokens.size()));
  ContextManifest m;
  m.name = name;
  m.identity = cache->identity();
  m.context = cache->options().context.context;
  m.codes = cache->stored_codes();
  m.tokens = static_cast<int64_t>(tokens.size());
  m.chain = HashChain(m.identity, tokens);
  m.owners = cache->stored_owners();
  if (replaced.has_value() && !m.owners.empty()) {
    return Status::InvalidArgument("context " + name + ": shares pages with a stored context, " +
                                   "expected one of its own to replace " + replaced->name);
  }
  PQCACHE_CHECK(!replaced.has_value() || replaced->name == name, "it takes the place of its name");
  m.owners.push_back({m.row_pages(), m.id()});
  m.bytes = TotalBytes(m);
  m.created = std::chrono::duration_cast<std::chrono::seconds>(
                  std::chrono::system_clock::now().time_since_epoch())
                  .count();
  std::unique_ptr<ContextSave> save(new ContextSave(cache, std::move(m)));
  save->replaced_ = std::move(replaced);
  save->tokens_.assign(tokens.begin(), tokens.end());
  return save;
}

void ContextSave::SaveLayer(int layer) {
  ++layers_given_;
  queue_.Submit([this, layer] { Write(layer); });
}

void ContextSave::Write(int layer) {
  for (int head = 0; status_.ok() && head < manifest_.identity.kv_heads; ++head) {
    status_ = CopyBorrowedPages(layer, head);
  }
  if (!status_.ok()) return;
  std::vector<PageWrite> pages;
  for (int head = 0; head < manifest_.identity.kv_heads; ++head) {
    HeadPages(manifest_, cache_->head(layer, head), layer, head).AddTo(&pages);
  }
  status_ = cache_->store()->Put(pages);
}

Status ContextSave::CopyBorrowedPages(int layer, int kv_head) const {
  const HeadCache& head = cache_->head(layer, kv_head);
  std::vector<PageRead> reads;
  for (int64_t page = 0; page < head.full_pages(); ++page) {
    const PageKey key = head.page_key(page);
    if (key != RowPageKey(manifest_, layer, kv_head, page)) reads.push_back({key, nullptr, {}});
  }
  for (size_t i = 0; i < reads.size(); i += kPagesPerCopy) {
    const auto part = std::span(reads).subspan(i, std::min(kPagesPerCopy, reads.size() - i));
    PQCACHE_RETURN_IF_ERROR(cache_->ReadPages(part));
    std::vector<PageWrite> copies;
    for (PageRead& read : part) {
      const PageShape& shape = manifest_.identity.page;
      const PageKey key = RowPageKey(manifest_, layer, kv_head, read.key.page);
      copies.push_back({key, EncodePage(key, shape, shape.page_tokens,
                                        read.page->span().subspan(kPageHeaderBytes))});
      read.page = nullptr;
    }
    PQCACHE_RETURN_IF_ERROR(cache_->store()->Put(copies));
  }
  return Status::Ok();
}

Status ContextSave::WriteTokens() {
  std::vector<PageWrite> pages;
  for (const PageKey& key : StoredPageKeys(manifest_, -1)) {
    const auto first = static_cast<size_t>(key.page) * kTokensPerPage;
    const auto count = static_cast<size_t>(StoredRows(manifest_, key));
    std::vector<int32_t> ids(tokens_.begin() + static_cast<int64_t>(first),
                             tokens_.begin() + static_cast<int64_t>(first + count));
    const auto* bytes = reinterpret_cast<const uint8_t*>(ids.data());
    pages.push_back({key, EncodePage(key, StoredShape(manifest_, key.kind), static_cast<int>(count),
                                     {bytes, count * sizeof(int32_t)})});
  }
  return cache_->store()->Put(pages);
}

Status ContextSave::WaitSave(bool* published) {
  *published = false;
  queue_.Wait();
  PQCACHE_CHECK(layers_given_ == manifest_.identity.layers, "every layer is saved once");
  PQCACHE_RETURN_IF_ERROR(status_);
  PQCACHE_RETURN_IF_ERROR(WriteTokens());
  PQCACHE_RETURN_IF_ERROR(cache_->store()->Sync());
  PQCACHE_RETURN_IF_ERROR(CheckShared());
  PQCACHE_ASSIGN_OR_RETURN(const bool written, WriteManifest());
  if (!written) return Status::Ok();
  // Whoever removes a shared context from here on sees this one.
  if (const Status shared = CheckShared(); !shared.ok()) {
    const Status removed =
        cache_->store()->RemoveRecord({manifest_.identity.tenant, manifest_.name});
    if (!removed.ok()) cache_->HandOver(manifest_);  // it may still be visible
    return removed.ok() ? shared : removed;
  }
  *published = true;
  cache_->HandOver(manifest_);
  if (!replaced_.has_value()) return Status::Ok();
  const ContextCatalog catalog(cache_->store(), manifest_.identity.tenant);
  if (const Status status = catalog.RemovePages(*replaced_); !status.ok()) {
    Log(LogLevel::kWarning, "pages of what was replaced stay: " + status.message());
  }
  return Status::Ok();
}

// False if the name is taken, or if what was to be replaced is not there any more.
Result<bool> ContextSave::WriteManifest() {
  PageStore* store = cache_->store();
  const RecordKey key = {manifest_.identity.tenant, manifest_.name};
  const std::string value = EncodeManifest(manifest_);
  const Result<bool> written = replaced_.has_value()
                                   ? store->ReplaceRecord(key, EncodeManifest(*replaced_), value)
                                   : store->PutRecord(key, value);
  if (written.ok()) return written;
  // The answer may have got lost: what is there now counts.
  const Result<std::string> found = store->GetRecord(key);
  if (found.ok() && *found == value) return true;
  if (found.ok() || found.status().code() == StatusCode::kNotFound) return written.status();
  cache_->HandOver(manifest_);  // keeps the pages, which the manifest may speak of
  return written.status().Annotate("stored context " + manifest_.name +
                                   ": it is not known whether it was written");
}

// Pages stay as long as some manifest refers to their context.
Status ContextSave::CheckShared() const {
  if (manifest_.owners.size() == 1) return Status::Ok();
  const ContextCatalog catalog(cache_->store(), manifest_.identity.tenant);
  PQCACHE_ASSIGN_OR_RETURN(const CatalogListing listing, catalog.List());
  for (const PageOwner& owner : manifest_.owners) {
    const auto keeps = [&](const ContextManifest& other) {
      return other.context != manifest_.context && RefersTo(other, owner.context);
    };
    if (owner.context == manifest_.id() ||
        std::any_of(listing.contexts.begin(), listing.contexts.end(), keeps)) {
      continue;
    }
    return Status::NotFound("stored context " + manifest_.name + ": its first " +
                            std::to_string(owner.end) +
                            " pages are those of a context that was removed meanwhile");
  }
  return Status::Ok();
}

}  // namespace pqcache
