#include "pqcache/cache/head_cache.h"

#include <algorithm>
#include <cstring>

#include "pqcache/base/check.h"
#include "pqcache/base/vector_math.h"
#include "pqcache/cache/row_codec.h"
#include "pqcache/index/flat_index.h"
#include "pqcache/index/pq_index.h"

namespace pqcache {

HeadCache::HeadCache(HeadCacheOptions options)
    : options_(std::move(options)),
      row_bytes_(2 * DTypeSize(options_.page.dtype) * options_.page.dim),
      sinks_(static_cast<size_t>(options_.n_sink) * row_bytes_),
      window_(static_cast<size_t>(options_.local_window) * row_bytes_),
      open_page_(static_cast<size_t>(options_.page.page_tokens) * options_.page.row_bytes()) {
  PQCACHE_CHECK(options_.local_window >= 1 && options_.n_sink >= 0 && options_.page.dim >= 1,
                "a window of at least one token");
  if (options_.codebook != nullptr) codes_ = std::make_unique<PqIndex>(options_.codebook);
  if (options_.keep_keys) keys_ = std::make_unique<FlatIndex>(options_.page.dim);
}

HeadCache::HeadCache(const HeadCache& other, const ContextId& context) : HeadCache(other.options_) {
  tokens_ = other.tokens_;
  paged_tokens_ = other.paged_tokens_;
  HandOver(other.page_owners(), context);
  finite_ = other.finite_;
  std::copy_n(other.sinks_.data(), sinks_.size(), sinks_.data());
  std::copy_n(other.window_.data(), window_.size(), window_.data());
  std::copy_n(other.open_page_.data(), open_page_.size(), open_page_.data());
  closed_sum_ = other.closed_sum_;
  value_sums_.Resize(other.value_sums_.size());
  std::copy_n(other.value_sums_.data(), value_sums_.size(), value_sums_.data());
  held_ = other.held_;
  held_rows_ = other.held_rows_;
  if (other.codes_ != nullptr) codes_ = std::make_unique<PqIndex>(*other.codes_);
  if (other.keys_ != nullptr) keys_ = other.keys_->Clone();
}

int64_t HeadCache::PagedTokens(const HeadCacheOptions& options, int64_t tokens) {
  return std::max<int64_t>(0, tokens - options.local_window);
}

int64_t HeadCache::FirstRowNeeded(const HeadCacheOptions& options, int64_t tokens) {
  const int64_t paged = PagedTokens(options, tokens);
  const int64_t open_page = paged / options.page.page_tokens * options.page.page_tokens;
  if (!options.value_sums) return open_page;
  return std::min(open_page, paged / kValueBlockTokens * kValueBlockTokens);
}

HeadCache::HeadCache(HeadCacheOptions options, StoredHead stored) : HeadCache(std::move(options)) {
  PQCACHE_CHECK(options_.page.layout == PageLayout::kKeyValue, "stored heads have keys and values");
  const int64_t window = options_.local_window;
  tokens_ = stored.tokens;
  paged_tokens_ = PagedTokens(options_, tokens_);
  owners_ = std::move(stored.owners);
  for (int64_t t = 0; t < std::min<int64_t>(options_.n_sink, tokens_); ++t) {
    std::memcpy(sinks_.data() + t * row_bytes_, stored.row(t), row_bytes_);
  }
  for (int64_t t = paged_tokens_; t < tokens_; ++t) {
    std::memcpy(window_.data() + t % window * row_bytes_, stored.row(t), row_bytes_);
  }
  const int64_t open = full_pages() * options_.page.page_tokens;
  for (int64_t t = open; t < paged_tokens_; ++t) {
    std::memcpy(open_page_.data() + (t - open) * row_bytes_, stored.row(t), row_bytes_);
  }
  if (options_.value_sums) RestoreSums(stored);
  if (codes_ != nullptr) codes_->AppendPacked(paged_tokens_, stored.codes.data());
  if (keys_ == nullptr) return;
  std::vector<float> key(static_cast<size_t>(options_.page.dim));
  for (int64_t t = 0; t < paged_tokens_; ++t) {
    LoadRow(stored.row(t), options_.page.dim, options_.page.dtype, key.data());
    keys_->Append(1, key.data());
  }
}

// Blocks with sinks, and the one that is not complete, are summed up again: in the order of Retire,
// so that the result is the same to the bit.
void HeadCache::RestoreSums(const StoredHead& stored) {
  const int64_t dim = options_.page.dim;
  const int64_t blocks = (paged_tokens_ + kValueBlockTokens - 1) / kValueBlockTokens;
  value_sums_.Resize(static_cast<size_t>(blocks * dim));
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * kValueBlockTokens;
    const int64_t last = first + kValueBlockTokens;
    if (first >= options_.n_sink && last <= paged_tokens_) {
      std::copy_n(stored.value_sums.data() + block * dim, dim, value_sums_.data() + block * dim);
    } else {
      for (int64_t t = first; t < std::min(last, paged_tokens_); ++t) AddToSum(stored.row(t), t);
    }
    if (last <= paged_tokens_) CloseBlock(block);
  }
}

void HeadCache::Append(int64_t n, const float* keys, const float* values, int64_t stride,
                       std::vector<PageWrite>* full_pages) {
  const int dim = options_.page.dim;
  const size_t half = row_bytes_ / 2;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t position = tokens_++;
    uint8_t* slot = window_.data() + position % options_.local_window * row_bytes_;
    const int64_t leaving = position - options_.local_window;
    if (leaving >= 0) Retire(slot, leaving, full_pages);
    StoreRow(keys + i * stride, dim, options_.page.dtype, slot);
    finite_ = finite_ && RowIsFinite(slot, dim, options_.page.dtype);
    StoreRow(values + i * stride, dim, options_.page.dtype, slot + half);
    if (position < options_.n_sink) {
      std::memcpy(sinks_.data() + position * row_bytes_, slot, row_bytes_);
    }
  }
  IndexRetired();
}

void HeadCache::Retire(const uint8_t* row, int64_t position, std::vector<PageWrite>* full_pages) {
  const PageShape& shape = options_.page;
  const size_t half = row_bytes_ / 2;
  const size_t dim = static_cast<size_t>(shape.dim);
  const int64_t page = position / shape.page_tokens;
  const int64_t in_page = position % shape.page_tokens;
  const bool keyless = shape.layout == PageLayout::kValueOnly;
  std::memcpy(open_page_.data() + static_cast<size_t>(in_page) * shape.row_bytes(),
              keyless ? row + half : row, shape.row_bytes());

  std::vector<float>& floats = retired_keys_;
  floats.resize(floats.size() + dim);
  LoadRow(row, shape.dim, shape.dtype, floats.data() + floats.size() - dim);

  if (options_.value_sums) {
    value_sums_.Resize(static_cast<size_t>(position / kValueBlockTokens + 1) * dim);
    AddToSum(row, position);
    if ((position + 1) % kValueBlockTokens == 0) CloseBlock(position / kValueBlockTokens);
  }
  ++paged_tokens_;
  if (in_page + 1 == shape.page_tokens) {
    const PageKey key = page_key(page);
    full_pages->push_back({key, EncodePage(key, shape, shape.page_tokens, open_page_.span())});
  }
}

void HeadCache::AddToSum(const uint8_t* row, int64_t position) {
  if (position < options_.n_sink) return;
  const PageShape& shape = options_.page;
  thread_local std::vector<float> value;
  value.resize(static_cast<size_t>(shape.dim));
  LoadRow(row + row_bytes_ / 2, shape.dim, shape.dtype, value.data());
  AddScaled(1.0f, value.data(), shape.dim,
            value_sums_.data() + position / kValueBlockTokens * shape.dim);
}

void HeadCache::CloseBlock(int64_t block) {
  closed_sum_.resize(static_cast<size_t>(options_.page.dim), 0.0);
  for (size_t d = 0; d < closed_sum_.size(); ++d) closed_sum_[d] += value_sum(block)[d];
}

void HeadCache::IndexRetired() {
  const int dim = options_.page.dim;
  const int64_t n = static_cast<int64_t>(retired_keys_.size()) / dim;
  if (n == 0) return;
  if (!finite_) {
    // Rows must keep their numbers; this head is attended exactly from here on.
    std::fill(retired_keys_.begin(), retired_keys_.end(), 0.0f);
  }
  if (codes_ != nullptr) codes_->Append(n, retired_keys_.data());
  if (keys_ != nullptr) keys_->Append(n, retired_keys_.data());
  // Clearing would keep the memory of a whole prompt, which bytes() does not count.
  retired_keys_ = std::vector<float>();
}

int64_t HeadCache::sink_tokens() const { return std::min<int64_t>(options_.n_sink, paged_tokens_); }

RowBlock HeadCache::sinks() const { return {sinks_.data(), 0, sink_tokens()}; }

std::array<RowBlock, 2> HeadCache::window() const {
  const int64_t capacity = options_.local_window;
  const int64_t count = tokens_ - paged_tokens_;
  const int64_t start = paged_tokens_ % capacity;
  const int64_t before_wrap = std::min(count, capacity - start);
  return {RowBlock{window_.data() + start * row_bytes_, paged_tokens_, before_wrap},
          RowBlock{window_.data(), paged_tokens_ + before_wrap, count - before_wrap}};
}

RowBlock HeadCache::open_page() const {
  const int64_t first = full_pages() * options_.page.page_tokens;
  return {open_page_.data(), first, paged_tokens_ - first};
}

void HeadCache::Hold(const PageWrite& page) {
  if (page.key.page != held_pages()) return;
  held_.push_back(page.page);
  held_rows_.push_back(PageRows(*page.page));
}

PageKey HeadCache::page_key(int64_t page) const {
  PageKey key = options_.first_page;
  key.page = page;
  for (const PageOwner& owner : owners_) {
    if (page >= owner.end) continue;
    key.context = owner.context;
    break;
  }
  return key;
}

std::vector<PageOwner> HeadCache::page_owners() const {
  std::vector<PageOwner> owners = owners_;
  if (owners.empty() || owners.back().end < full_pages()) {
    owners.push_back({full_pages(), options_.first_page.context});
  }
  return owners;
}

void HeadCache::HandOver(std::vector<PageOwner> owners, const ContextId& next) {
  // The pages are other copies from where their owner changes.
  const std::vector<PageOwner> before = page_owners();
  const auto kept = std::mismatch(before.begin(), before.end(), owners.begin(), owners.end()).first;
  const int64_t same = kept == before.begin() ? 0 : std::prev(kept)->end;
  held_.resize(static_cast<size_t>(std::min(same, held_pages())));
  held_rows_.resize(held_.size());
  owners_ = std::move(owners);
  options_.first_page.context = next;
}

int64_t HeadCache::value_count(int64_t block) const {
  const int64_t first = block * kValueBlockTokens;
  const int64_t last = std::min(paged_tokens_, first + kValueBlockTokens);
  return std::max<int64_t>(0, last - std::max<int64_t>(first, options_.n_sink));
}

void HeadCache::MeanValue(float* mean) const {
  const int64_t count = paged_tokens_ - sink_tokens();
  PQCACHE_CHECK(count > 0 && options_.value_sums, "sums of one value at least");
  const int64_t closed = paged_tokens_ / kValueBlockTokens;
  const float* open = closed * kValueBlockTokens < paged_tokens_ ? value_sum(closed) : nullptr;
  for (int d = 0; d < options_.page.dim; ++d) {
    const double sum = (closed_sum_.empty() ? 0.0 : closed_sum_[static_cast<size_t>(d)]) +
                       (open == nullptr ? 0.0 : open[d]);
    mean[d] = static_cast<float>(sum / static_cast<double>(count));
  }
}

uint64_t HeadCache::bytes() const {
  return sinks_.size() + window_.size() + open_page_.size() + value_sums_.size() * sizeof(float) +
         (codes_ == nullptr ? 0 : codes_->bytes()) + (keys_ == nullptr ? 0 : keys_->bytes());
}

}  // namespace pqcache
