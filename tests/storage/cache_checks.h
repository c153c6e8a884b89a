#pragma once

// What a KvCache must hold after a SampleText was appended to it, or read back from a store.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pqcache/cache/kv_cache.h"
#include "tests/storage/sample_text.h"
#include "tests/support/status_matchers.h"

namespace pqcache::testing {

// Keys and values [begin, end) of one head; returns the status of reading them.
inline Status ExpectRows(const KvCache& cache, const SampleText& text, int layer, int head,
                         int64_t begin, int64_t end) {
  std::vector<float> keys(static_cast<size_t>((end - begin) * SampleText::kDim));
  std::vector<float> values(keys.size());
  PQCACHE_RETURN_IF_ERROR(cache.ReadRows(layer, head, begin, end, keys.data(), values.data()));
  EXPECT_EQ(keys, text.Rows(layer, head, false, begin, end)) << layer << "/" << head;
  EXPECT_EQ(values, text.Rows(layer, head, true, begin, end)) << layer << "/" << head;
  return Status::Ok();
}

inline void ExpectCodes(const KvCache& cache, const SampleText& text, int layer, int head) {
  const HeadCache& found = cache.head(layer, head);
  if (found.codes() == nullptr) return;
  const int64_t n = found.paged_tokens();
  PqIndex expected(found.shared_codebook());
  expected.Append(n, text.Rows(layer, head, false, 0, n).data());
  const int width = found.shared_codebook()->shape().bytes_per_key();
  std::vector<uint8_t> a(static_cast<size_t>(n * width)), b(a.size());
  found.codes()->CopyPacked(0, n, a.data());
  expected.CopyPacked(0, n, b.data());
  EXPECT_EQ(a, b) << layer << "/" << head;
}

inline void ExpectSums(const KvCache& cache, const SampleText& text, int layer, int head) {
  constexpr int64_t kDim = SampleText::kDim;
  const HeadCache& found = cache.head(layer, head);
  const int64_t n = found.paged_tokens();
  const std::vector<float> rows = text.Rows(layer, head, true, 0, n);
  const int64_t blocks = (n + kValueBlockTokens - 1) / kValueBlockTokens;
  std::vector<float> sums(static_cast<size_t>(blocks * kDim));
  for (int64_t t = cache.options().n_sink; t < n; ++t) {
    for (int64_t d = 0; d < kDim; ++d) {
      sums[static_cast<size_t>(t / kValueBlockTokens * kDim + d)] +=
          rows[static_cast<size_t>(t * kDim + d)];
    }
  }
  for (int64_t block = 0; block < blocks; ++block) {
    const float* sum = found.value_sum(block);
    EXPECT_TRUE(std::equal(sum, sum + kDim, &sums[static_cast<size_t>(block * kDim)]))
        << layer << "/" << head << " block " << block;
  }
}

// All of it.
inline void ExpectHolds(const KvCache& cache, const SampleText& text) {
  for (int layer = 0; layer < cache.options().layers; ++layer) {
    ASSERT_EQ(cache.tokens(layer), text.tokens());
    for (int head = 0; head < cache.options().kv_heads; ++head) {
      ASSERT_OK(ExpectRows(cache, text, layer, head, 0, text.tokens()));
      ExpectCodes(cache, text, layer, head);
      ExpectSums(cache, text, layer, head);
    }
  }
}

}  // namespace pqcache::testing
