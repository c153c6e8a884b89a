#include "pqcache/cache/context_load.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "pqcache/base/check.h"
#include "pqcache/cache/stored_pages.h"

namespace pqcache {
namespace {

// Layers that may be read and not yet taken: they are not under anybody's memory budget.
constexpr int kLayersAhead = 2;

// Everything one head is restored from, read in one batch with the other heads of its layer.
class HeadReader {
 public:
  HeadReader(const StoredPrefix& prefix, HeadCacheOptions options, int layer, int head)
      : prefix_(prefix), options_(std::move(options)), layer_(layer), head_(head) {}

  void AddReads(std::vector<PageRead>* reads) {
    first_ = reads->size();
    const ContextManifest& m = prefix_.manifest;
    const int64_t page_tokens = m.identity.page.page_tokens;
    int64_t sinks = options_.n_sink;
    if (options_.value_sums) {  // blocks with sinks are summed up from their rows
      sinks = (sinks + kValueBlockTokens - 1) / kValueBlockTokens * kValueBlockTokens;
    }
    const int64_t needed = HeadCache::FirstRowNeeded(options_, prefix_.tokens);
    for (int64_t page = 0; page * page_tokens < prefix_.tokens; ++page) {
      const bool wanted =
          options_.keep_keys || page * page_tokens < sinks || (page + 1) * page_tokens > needed;
      if (wanted) reads->push_back({RowPageKey(m, layer_, head_, page), nullptr, Status::Ok()});
    }
    codes_ = reads->size();
    const int64_t paged = HeadCache::PagedTokens(options_, prefix_.tokens);
    if (options_.codebook != nullptr) AddKind(PageKind::kCodes, paged, kCodesPerPage, reads);
    sums_ = reads->size();
    if (options_.value_sums) {
      AddKind(PageKind::kValueSums, paged / kValueBlockTokens, kSumsPerPage, reads);
    }
    end_ = reads->size();
  }

  HeadCache Build(std::span<const PageRead> reads) const {
    const PageShape& shape = prefix_.manifest.identity.page;
    StoredHead stored;
    stored.tokens = prefix_.tokens;
    stored.owners = OwnersBelow(
        prefix_.manifest, HeadCache::PagedTokens(options_, prefix_.tokens) / shape.page_tokens);
    const std::span<const PageRead> rows = reads.subspan(first_, codes_ - first_);
    stored.row = [rows, &shape](int64_t position) {
      const int64_t page = position / shape.page_tokens;
      const auto it = std::partition_point(
          rows.begin(), rows.end(), [&](const PageRead& read) { return read.key.page < page; });
      PQCACHE_CHECK(it != rows.end() && it->key.page == page, "a row that was not read");
      return PageRows(*it->page) +
             static_cast<size_t>(position % shape.page_tokens) * shape.row_bytes();
    };
    const std::vector<uint8_t> codes = Join(reads.subspan(codes_, sums_ - codes_));
    const std::vector<uint8_t> sum_bytes = Join(reads.subspan(sums_, end_ - sums_));
    std::vector<float> sums(sum_bytes.size() / sizeof(float));
    if (!sums.empty()) std::memcpy(sums.data(), sum_bytes.data(), sum_bytes.size());
    stored.codes = codes;
    stored.value_sums = sums;
    return HeadCache(options_, std::move(stored));
  }

 private:
  void AddKind(PageKind kind, int64_t rows, int64_t rows_per_page,
               std::vector<PageRead>* reads) const {
    for (int64_t page = 0; page * rows_per_page < rows; ++page) {
      reads->push_back({{prefix_.manifest.id(), layer_, head_, page, kind}, nullptr, Status::Ok()});
    }
  }
  static std::vector<uint8_t> Join(std::span<const PageRead> pages) {
    std::vector<uint8_t> out;
    for (const PageRead& read : pages) {
      out.insert(out.end(), PageRows(*read.page), read.page->data() + read.page->size());
    }
    return out;
  }

  const StoredPrefix& prefix_;
  const HeadCacheOptions options_;
  const int layer_, head_;
  size_t first_ = 0, codes_ = 0, sums_ = 0, end_ = 0;  // of the batch
};

}  // namespace

ContextLoad::ContextLoad(StoredPrefix prefix, PageStore* store,
                         std::function<HeadCacheOptions(int, int)> options)
    : prefix_(std::move(prefix)), store_(store), options_(std::move(options)) {
  reader_ = std::thread([this] { ReadAll(); });
}

ContextLoad::~ContextLoad() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  reader_.join();
}

void ContextLoad::ReadAll() {
  for (int layer = 0; layer < prefix_.manifest.identity.layers; ++layer) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || layer < taken_ + kLayersAhead; });
      if (stopping_) return;
    }
    Result<std::vector<HeadCache>> heads = ReadLayer(layer);
    const std::lock_guard lock(mutex_);
    ready_.emplace(layer, std::move(heads));
    changed_.notify_all();
  }
}

Result<std::vector<HeadCache>> ContextLoad::TakeLayer(int layer) {
  std::unique_lock lock(mutex_);
  taken_ = std::max(taken_, layer);
  changed_.notify_all();
  changed_.wait(lock, [&] { return ready_.contains(layer); });
  Result<std::vector<HeadCache>> heads = std::move(ready_.at(layer));
  ready_.erase(layer);
  taken_ = std::max(taken_, layer + 1);
  changed_.notify_all();
  return heads;
}

Result<std::vector<HeadCache>> ContextLoad::ReadLayer(int layer) const {
  std::vector<HeadReader> readers;
  std::vector<PageRead> reads;
  for (int head = 0; head < prefix_.manifest.identity.kv_heads; ++head) {
    readers.emplace_back(prefix_, options_(layer, head), layer, head);
    readers.back().AddReads(&reads);
  }
  store_->Read(reads);
  for (const PageRead& read : reads) {
    if (read.status.ok()) {
      PQCACHE_RETURN_IF_ERROR(CheckStoredPage(prefix_.manifest, *read.page));
    } else {
      return read.status.Annotate("stored context " + prefix_.manifest.name);
    }
  }
  std::vector<HeadCache> heads;
  for (const HeadReader& reader : readers) heads.push_back(reader.Build(reads));
  return heads;
}

}  // namespace pqcache
