#pragma once

// A GPU cache of one layer with random sequences in it, and the same tokens on the host.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/gpu/gpu_kv_cache.h"
#include "attention/kernels/append_tokens.h"
#include "attention/kernels/device_info.h"
#include "pqcache/base/half.h"
#include "pqcache/index/pq_index.h"
#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/random_data.h"
#include "tests/support/status_matchers.h"

namespace pqcache::testing {

// Why tests of kernels cannot run here; empty if they can.
inline std::string NoGpuReason() {
  const auto gpus = attention::ListGpus();
  if (!gpus.ok()) return gpus.status().message();
  return gpus->empty() ? "no GPU here" : "";
}

#define PQCACHE_NEEDS_GPU() \
  if (const std::string why = ::pqcache::testing::NoGpuReason(); !why.empty()) GTEST_SKIP() << why

// Device memory with these numbers.
template <typename T>
attention::GpuBuffer ToDevice(const std::vector<T>& x) {
  auto buffer = attention::GpuBuffer::Allocate(attention::MemoryKind::kDevice,
                                               std::max<size_t>(1, x.size()) * sizeof(T));
  PQCACHE_CHECK(buffer.ok(), buffer.status().message().c_str());
  const Status status =
      attention::CopyBytes(buffer->data(), x.data(), x.size() * sizeof(T), nullptr);
  PQCACHE_CHECK(status.ok(), status.message().c_str());
  return *std::move(buffer);
}

template <typename T>
std::vector<T> ToHost(const void* device, size_t n) {
  std::vector<T> x(n);
  const Status copied = attention::CopyBytes(x.data(), device, n * sizeof(T), nullptr);
  const Status done = attention::WaitFor(nullptr);
  PQCACHE_CHECK(copied.ok() && done.ok(), done.message().c_str());
  return x;
}

struct GpuWorldShape {
  PqShape pq;
  int kv_heads = 2, group = 4;
  std::vector<int32_t> tokens = {1000};  // of each sequence
  int64_t shared_tokens = 0;
  bool rotated = true;
  bool equal_keys = false;
  bool means = false;     // codebooks with position means
  float mean_length = 1;  // their length, relative to normal ones
  int layers = 1;         // with the same rows in each
  int64_t host_begin = 0, host_end = 0;
  attention::GpuWindow window{16, 256};
};

class GpuWorld {
 public:
  // Keys at `planted` positions of every sequence are multiplied by `factor`.
  explicit GpuWorld(GpuWorldShape s, const std::vector<int>& planted = {}, float factor = 1)
      : shape(std::move(s)) {
    const int dim = shape.pq.dim;
    set.layers = shape.layers;
    set.kv_heads = shape.kv_heads;
    for (int i = 0; i < shape.layers * shape.kv_heads; ++i) {
      const uint64_t seed = 10 + static_cast<uint64_t>(i);
      HeadCodebook::Parts parts = RandomParts(shape.pq, shape.rotated, seed);
      parts.residual = static_cast<float>(dim + i);  // some nats
      if (shape.means) {
        parts.position_mean = RandomPositionMean(dim, dim / 2, seed, shape.mean_length);
      }
      set.heads.push_back(HeadCodebook::Create(std::move(parts)).value());
    }
    const int32_t most = *std::max_element(shape.tokens.begin(), shape.tokens.end());
    attention::GpuKvCacheOptions options;
    options.layers = shape.layers;
    options.kv_heads = shape.kv_heads;
    options.dim = dim;
    options.batch = batch();
    options.max_tokens = most + 70;
    options.shared_tokens = shape.shared_tokens;
    options.window = shape.window;
    options.host_begin = shape.host_begin;
    options.host_end = shape.host_end;
    auto made = attention::GpuKvCache::Create(options, &set);
    PQCACHE_CHECK(made.ok(), made.status().message().c_str());
    cache = *std::move(made);
    const int64_t row = int64_t{shape.kv_heads} * dim;
    keys = RandomNormals(batch() * most * row, 1);
    for (int64_t i = row; shape.equal_keys && i < std::ssize(keys); ++i) keys[i] = keys[i - row];
    values = RandomNormals(batch() * most * row, 2);
    for (int b = 0; b < batch(); ++b) {
      for (const int position : planted) {
        for (int64_t i = 0; i < row; ++i) keys[(b * most + position) * row + i] *= factor;
      }
    }
    for (int b = 1; b < batch(); ++b) {  // shared pages hold one content
      std::copy_n(keys.begin(), shape.shared_tokens * row, keys.begin() + b * most * row);
      std::copy_n(values.begin(), shape.shared_tokens * row, values.begin() + b * most * row);
    }
    for (float& x : keys) x = BFloat16ToFloat(FloatToBFloat16(x));
    for (float& x : values) x = BFloat16ToFloat(FloatToBFloat16(x));
    queries = RandomNormals(int64_t{batch()} * heads() * dim, 3);
    Append(most);
    stride_ = most;
  }

  int batch() const { return static_cast<int>(shape.tokens.size()); }
  int heads() const { return shape.kv_heads * shape.group; }
  int dim() const { return shape.pq.dim; }
  const float* key(int b, int64_t t, int h) const {
    return keys.data() + ((b * stride_ + t) * shape.kv_heads + h) * dim();
  }
  const float* value(int b, int64_t t, int h) const {
    return values.data() + ((b * stride_ + t) * shape.kv_heads + h) * dim();
  }
  const float* query(int b, int q) const {
    return queries.data() + (int64_t{b} * heads() + q) * dim();
  }
  // The index that the CPU has of the same keys.
  PqIndex Index(int b, int h) const {
    PqIndex index(std::make_shared<const HeadCodebook>(set.heads[static_cast<size_t>(h)]));
    for (int64_t t = 0; t < shape.tokens[static_cast<size_t>(b)]; ++t)
      index.Append(1, key(b, t, h));
    return index;
  }

  GpuWorldShape shape;
  CodebookSet set;
  std::unique_ptr<attention::GpuKvCache> cache;
  std::vector<float> keys, values;  // [B, T, Hkv, D], rounded to bfloat16
  std::vector<float> queries;       // [B, Hq, D]

 private:
  // All but the last token of every sequence in chunks, the last one alone.
  void Append(int32_t most) {
    const int64_t row = int64_t{shape.kv_heads} * dim();
    for (int32_t begin = 0; begin < most;) {
      const int32_t n = begin + 1 < most ? std::min(most - 1 - begin, 333) : 1;
      std::vector<float> k, v;
      for (int b = 0; b < batch(); ++b) {
        const int64_t first = (int64_t{b} * most + begin) * row;
        k.insert(k.end(), keys.begin() + first, keys.begin() + first + n * row);
        v.insert(v.end(), values.begin() + first, values.begin() + first + n * row);
      }
      begin += n;
      Check(cache->SetTokens(std::vector<int32_t>(static_cast<size_t>(batch()), begin), nullptr));
      const auto device_keys = ToDevice(k), device_values = ToDevice(v);
      for (int l = 0; l < shape.layers; ++l) {
        attention::AppendTokensParams p;
        p.layer = cache->layer(l);
        p.codebooks = cache->codebooks(l);
        p.n = n;
        p.keys = device_keys.as<float>();
        p.values = device_values.as<float>();
        Check(attention::AppendTokens(p, nullptr));
      }
      Check(attention::WaitFor(nullptr));
    }
    Check(cache->SetTokens(shape.tokens, nullptr));
  }
  static void Check(const Status& status) { PQCACHE_CHECK(status.ok(), status.message().c_str()); }

  int64_t stride_ = 0;
};

}  // namespace pqcache::testing
