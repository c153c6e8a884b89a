#include "attention/gpu/gpu_kv_cache.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

namespace pqcache::attention {

GpuKvCache::GpuKvCache(const GpuKvCacheOptions& options) : options_(options) {}

Result<std::unique_ptr<GpuKvCache>> GpuKvCache::Create(const GpuKvCacheOptions& options,
                                                       const CodebookSet* codebooks) {
  std::unique_ptr<GpuKvCache> cache(new GpuKvCache(options));
  if (codebooks != nullptr) PQCACHE_RETURN_IF_ERROR(cache->LoadCodebooks(*codebooks));
  PQCACHE_RETURN_IF_ERROR(
      cache->PlacePages(codebooks == nullptr ? 0 : codebooks->shape().bytes_per_key()));
  const auto heads =
      static_cast<size_t>(int64_t{options.layers} * options.batch * options.kv_heads);
  const size_t sums = heads * static_cast<size_t>(options.dim) * sizeof(double);
  PQCACHE_ASSIGN_OR_RETURN(cache->value_sums_, GpuBuffer::Allocate(MemoryKind::kDevice, sums));
  PQCACHE_ASSIGN_OR_RETURN(cache->summed_,
                           GpuBuffer::Allocate(MemoryKind::kDevice, heads * sizeof(int32_t)));
  cache->device_bytes_ += sums + heads * sizeof(int32_t);
  const std::vector<int32_t> none(static_cast<size_t>(options.batch), 0);
  PQCACHE_ASSIGN_OR_RETURN(cache->tokens_,
                           GpuBuffer::Allocate(MemoryKind::kDevice, none.size() * sizeof(int32_t)));
  PQCACHE_RETURN_IF_ERROR(cache->SetTokens(none, nullptr));
  return cache;
}

Result<void*> GpuKvCache::Allocate(MemoryKind kind, size_t bytes) {
  PQCACHE_ASSIGN_OR_RETURN(GpuBuffer buffer, GpuBuffer::Allocate(kind, bytes));
  (kind == MemoryKind::kDevice ? device_bytes_ : host_bytes_) += bytes;
  void* data = buffer.data();
  memory_.push_back(std::move(buffer));
  return data;
}

template <typename T>
Result<const T*> GpuKvCache::Place(const std::vector<T>& numbers) {
  const size_t bytes = numbers.size() * sizeof(T);
  PQCACHE_ASSIGN_OR_RETURN(void* data, Allocate(MemoryKind::kDevice, bytes));
  PQCACHE_RETURN_IF_ERROR(CopyBytes(data, numbers.data(), bytes, nullptr));
  PQCACHE_RETURN_IF_ERROR(WaitFor(nullptr));
  return static_cast<const T*>(data);
}

Status GpuKvCache::PlacePages(int bytes_per_key) {
  bytes_per_key_ = bytes_per_key;
  const GpuKvCacheOptions& o = options_;
  const int64_t shared = std::min(o.shared_tokens / kGpuPageTokens, pages());
  const int64_t host_begin = GpuPagesOf(o.host_begin);
  const int64_t host_end = std::min(o.host_end / kGpuPageTokens, pages());
  const size_t head_tokens = static_cast<size_t>(o.kv_heads) * kGpuPageTokens;
  const size_t row_bytes = head_tokens * 4 * static_cast<size_t>(o.dim);
  const size_t code_bytes = head_tokens * static_cast<size_t>(bytes_per_key);
  const size_t entries = static_cast<size_t>(int64_t{o.layers} * o.batch * pages());
  std::vector<char*> rows, codes;
  for (int l = 0; l < o.layers; ++l) {
    for (int b = 0; b < o.batch; ++b) {
      const size_t first_sequence = rows.size() - static_cast<size_t>(b * pages());
      const int64_t own = b == 0 ? 0 : shared;
      for (int64_t page = 0; page < own; ++page) {
        rows.push_back(rows[first_sequence + static_cast<size_t>(page)]);
        codes.push_back(codes[first_sequence + static_cast<size_t>(page)]);
      }
      const int64_t in_host = std::max<int64_t>(0, host_end - std::max(own, host_begin));
      PQCACHE_ASSIGN_OR_RETURN(
          void* device,
          Allocate(MemoryKind::kDevice, row_bytes * static_cast<size_t>(pages() - own - in_host)));
      PQCACHE_ASSIGN_OR_RETURN(
          void* host, Allocate(MemoryKind::kPinnedHost, row_bytes * static_cast<size_t>(in_host)));
      PQCACHE_ASSIGN_OR_RETURN(
          void* code,
          Allocate(MemoryKind::kDevice, code_bytes * static_cast<size_t>(pages() - own)));
      auto* next_device = static_cast<char*>(device);
      auto* next_host = static_cast<char*>(host);
      auto* next_code = static_cast<char*>(code);
      for (int64_t page = own; page < pages(); ++page) {
        char*& next = page >= host_begin && page < host_end ? next_host : next_device;
        rows.push_back(next);
        codes.push_back(next_code);
        next += row_bytes;
        next_code += code_bytes;
      }
    }
  }
  PQCACHE_ASSIGN_OR_RETURN(row_pages_,
                           GpuBuffer::Allocate(MemoryKind::kDevice, entries * sizeof(void*)));
  PQCACHE_ASSIGN_OR_RETURN(code_pages_,
                           GpuBuffer::Allocate(MemoryKind::kDevice, entries * sizeof(void*)));
  device_bytes_ += 2 * entries * sizeof(void*);
  PQCACHE_RETURN_IF_ERROR(
      CopyBytes(row_pages_.data(), rows.data(), entries * sizeof(void*), nullptr));
  PQCACHE_RETURN_IF_ERROR(
      CopyBytes(code_pages_.data(), codes.data(), entries * sizeof(void*), nullptr));
  return WaitFor(nullptr);
}

Status GpuKvCache::LoadCodebooks(const CodebookSet& set) {
  const GpuKvCacheOptions& o = options_;
  if (set.layers != o.layers || set.kv_heads != o.kv_heads || set.shape().dim != o.dim) {
    return Status::InvalidArgument("codebooks are for " + std::to_string(set.layers) + " layers, " +
                                   std::to_string(set.kv_heads) + " KV heads, head size " +
                                   std::to_string(set.shape().dim) + ", expected " +
                                   std::to_string(o.layers) + ", " + std::to_string(o.kv_heads) +
                                   ", " + std::to_string(o.dim));
  }
  // Of all heads of a layer, one array.
  const auto place = [&](int layer, auto part) -> Result<const float*> {
    std::vector<float> numbers;
    for (int h = 0; h < o.kv_heads; ++h) {
      const std::span<const float> more = part(set.head(layer, h));
      numbers.insert(numbers.end(), more.begin(), more.end());
    }
    if (numbers.empty()) return nullptr;
    return Place(numbers);
  };
  PQCACHE_ASSIGN_OR_RETURN(const double* phases, PlacePhases(set));
  for (int l = 0; l < o.layers; ++l) {
    GpuCodebooks c;
    c.phases = phases;
    c.pairs = static_cast<int>(set.heads.front().position_mean().frequencies().size());
    PQCACHE_ASSIGN_OR_RETURN(c.position_means, place(l, [](const HeadCodebook& head) {
                               return head.position_mean().averaged();
                             }));
    c.subspaces = set.shape().subspaces;
    c.bits = set.shape().bits;
    PQCACHE_ASSIGN_OR_RETURN(c.centroids,
                             place(l, [](const HeadCodebook& head) { return head.centroids(); }));
    PQCACHE_ASSIGN_OR_RETURN(c.half_norms,
                             place(l, [](const HeadCodebook& head) { return head.half_norms(); }));
    PQCACHE_ASSIGN_OR_RETURN(
        c.key_transform, place(l, [](const HeadCodebook& head) { return head.key_transform(); }));
    PQCACHE_ASSIGN_OR_RETURN(c.query_transform, place(l, [](const HeadCodebook& head) {
                               return head.query_transform();
                             }));
    std::vector<float> residuals;
    for (int h = 0; h < o.kv_heads; ++h) residuals.push_back(set.head(l, h).residual());
    PQCACHE_ASSIGN_OR_RETURN(c.residuals, Place(residuals));
    codebooks_.push_back(c);
  }
  return Status::Ok();
}

Result<const double*> GpuKvCache::PlacePhases(const CodebookSet& set) {
  const std::span<const float> frequencies = set.heads.front().position_mean().frequencies();
  for (const HeadCodebook& head : set.heads) {
    if (!std::ranges::equal(head.position_mean().frequencies(), frequencies)) {
      return Status::InvalidArgument(
          "position means of the heads have different frequencies, expected the same");
    }
  }
  if (frequencies.empty()) return nullptr;
  std::vector<double> phases;
  for (int64_t page = 0; page < pages(); ++page) {
    for (const float frequency : frequencies) {
      const double angle = MiddleOfBlock(page) * frequency;
      phases.insert(phases.end(), {std::cos(angle), std::sin(angle)});
    }
  }
  return Place(phases);
}

GpuLayer GpuKvCache::layer(int l) const {
  GpuLayer layer;
  layer.batch = options_.batch;
  layer.kv_heads = options_.kv_heads;
  layer.dim = options_.dim;
  layer.max_pages = static_cast<int>(pages());
  layer.bytes_per_key = bytes_per_key_;
  layer.tokens = tokens();
  const int64_t first = int64_t{l} * options_.batch * pages();
  layer.row_pages = row_pages_.as<void*>() + first;
  layer.code_pages = code_pages_.as<uint8_t*>() + first;
  const int64_t first_head = int64_t{l} * options_.batch * options_.kv_heads;
  layer.value_sums = value_sums_.as<double>() + first_head * options_.dim;
  layer.summed = summed_.as<int32_t>() + first_head;
  return layer;
}

Status GpuKvCache::SetTokens(std::span<const int32_t> tokens, GpuStream stream) {
  PQCACHE_CHECK(std::ssize(tokens) == options_.batch, "a number for each sequence");
  for (const int32_t t : tokens) {
    if (t < 0 || t > options_.max_tokens) {
      return Status::InvalidArgument("a sequence has " + std::to_string(t) +
                                     " tokens, expected at most the cache's " +
                                     std::to_string(options_.max_tokens));
    }
  }
  PQCACHE_RETURN_IF_ERROR(CopyBytes(tokens_.data(), tokens.data(), tokens.size_bytes(), stream));
  PQCACHE_RETURN_IF_ERROR(FillBytes(value_sums_.data(), 0, value_sums_.size(), stream));
  PQCACHE_RETURN_IF_ERROR(FillBytes(summed_.data(), 0, summed_.size(), stream));
  return WaitFor(stream);
}

}  // namespace pqcache::attention
