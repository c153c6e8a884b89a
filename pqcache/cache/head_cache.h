#pragma once

// Keys and values of one layer and KV head: the first `n_sink` tokens and the newest
// `local_window` tokens as exact rows in memory; every older token as a row of a page, as an entry
// of the index (codes, keys, both or neither) and, if wanted, in its block's sum of values.
//
// Full pages may belong to other contexts: those that a fork or a stored context shares with this
// one. Pages that fill up here are put under the cache's own context.
//
// Tokens leave the window in order of position, so row t of the index is token t. Sinks are in
// memory and in pages. Append needs exclusive access; const functions may run together.
// A row is K [D], then V [D] (pages of PageLayout::kValueOnly: V alone) in the page's dtype.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "pqcache/cache/page_codec.h"
#include "pqcache/cache/page_store.h"
#include "pqcache/index/codebook.h"
#include "pqcache/index/key_index.h"
#include "pqcache/index/pq_index.h"

namespace pqcache {

struct HeadCacheOptions {
  PageShape page;
  int n_sink = 16;                               // >= 0
  int local_window = 256;                        // >= 1
  PageKey first_page;                            // context, layer and head
  std::shared_ptr<const HeadCodebook> codebook;  // null: no codes
  bool keep_keys = false;                        // hold float32 keys of the paged tokens
  bool value_sums = true;                        // hold sums of values
};

// Rows [first, first + count) in memory, one behind the other; valid until the next Append.
struct RowBlock {
  const uint8_t* rows = nullptr;
  int64_t first = 0;
  int64_t count = 0;
};

// What a stored head is made of; rows are K and V. Read during construction only.
struct StoredHead {
  int64_t tokens = 0;
  std::vector<PageOwner> owners;  // of the full pages
  // Row of a token. Needed: the sinks, with value_sums all of their blocks of kValueBlockTokens,
  // and everything from FirstRowNeeded on; with keep_keys all rows.
  std::function<const uint8_t*(int64_t position)> row;
  std::span<const uint8_t> codes;  // [tokens, bytes_per_key], packed; empty without a codebook
  // [tokens / kValueBlockTokens, D], over all tokens of a block; empty without value_sums.
  std::span<const float> value_sums;
};

class HeadCache {
 public:
  // Of so many tokens, those that have left the window.
  static int64_t PagedTokens(const HeadCacheOptions& options, int64_t tokens);
  // See StoredHead: the first row behind the sinks that a head of so many tokens is restored from.
  static int64_t FirstRowNeeded(const HeadCacheOptions& options, int64_t tokens);

  explicit HeadCache(HeadCacheOptions options);
  // An independent copy. Pages of `other` that are full keep their owner; those that fill up later
  // are put under `context`.
  HeadCache(const HeadCache& other, const ContextId& context);
  // The first `tokens` tokens of a stored head, as if they had been appended.
  HeadCache(HeadCacheOptions options, StoredHead stored);

  // keys, values: [N, D] float32, rows `stride` floats apart. Pages that became full are added to
  // `full_pages`; the caller puts them into the store.
  void Append(int64_t n, const float* keys, const float* values, int64_t stride,
              std::vector<PageWrite>* full_pages);

  int64_t tokens() const { return tokens_; }
  int64_t paged_tokens() const { return paged_tokens_; }
  // Sinks that are already in pages (the others are in the window): [0, sink_tokens()).
  int64_t sink_tokens() const;
  int64_t full_pages() const { return paged_tokens_ / options_.page.page_tokens; }
  int local_window() const { return options_.local_window; }
  const PageShape& page_shape() const { return options_.page; }
  // Of rows in memory (sinks, window): K and V, whatever the page layout.
  size_t memory_row_bytes() const { return row_bytes_; }

  RowBlock sinks() const;
  std::array<RowBlock, 2> window() const;  // in order of position; the second may be empty
  RowBlock open_page() const;              // rows of the page that is not full, in page layout
  // Full pages [0, held_pages()) can be read in place; the others come from the store.
  int64_t held_pages() const { return static_cast<int64_t>(held_rows_.size()); }
  const uint8_t* held_rows(int64_t page) const { return held_rows_[static_cast<size_t>(page)]; }
  // Holds a full page that the store keeps in memory, if it is the next one.
  void Hold(const PageWrite& page);
  PageKey page_key(int64_t page) const;
  // Whose the full pages are, ascending; of the last owner the pages may still be growing.
  std::vector<PageOwner> page_owners() const;
  // The full pages are those of `owners` from here on; later ones are put under `next`.
  void HandOver(std::vector<PageOwner> owners, const ContextId& next);

  // nullptr when the cache was made without.
  const PqIndex* codes() const { return codes_.get(); }
  const std::shared_ptr<const HeadCodebook>& shared_codebook() const { return options_.codebook; }
  const KeyIndex* keys() const { return keys_.get(); }
  // Sum [D] over the paged tokens of a block of kValueBlockTokens that are no sinks (needs
  // value_sums), and their number.
  const float* value_sum(int64_t block) const { return &value_sums_[block * options_.page.dim]; }
  int64_t value_count(int64_t block) const;
  // Mean value [D] of all paged tokens that are no sinks; needs value_sums and one such token.
  void MeanValue(float* mean) const;

  // False once a key was NaN or infinite: codes of this head mean nothing, attend exactly.
  bool finite() const { return finite_; }
  // Bytes in memory: rows, codes, keys, sums.
  uint64_t bytes() const;

 private:
  void Retire(const uint8_t* row, int64_t position, std::vector<PageWrite>* full_pages);
  void IndexRetired();
  void RestoreSums(const StoredHead& stored);
  void AddToSum(const uint8_t* row, int64_t position);
  void CloseBlock(int64_t block);

  HeadCacheOptions options_;
  size_t row_bytes_;  // K and V
  int64_t tokens_ = 0;
  int64_t paged_tokens_ = 0;
  std::vector<PageOwner> owners_;  // of the pages that are not this cache's own
  bool finite_ = true;
  AlignedBuffer<uint8_t> sinks_;      // [n_sink] rows
  AlignedBuffer<uint8_t> window_;     // ring of [local_window] rows
  AlignedBuffer<uint8_t> open_page_;  // [page_tokens] rows in page layout
  AlignedBuffer<float> value_sums_;   // [blocks, D]
  std::vector<double> closed_sum_;    // [D] of the complete blocks, added up in their order
  std::vector<PageRef> held_;
  std::vector<const uint8_t*> held_rows_;  // of the held pages
  std::unique_ptr<PqIndex> codes_;
  std::unique_ptr<KeyIndex> keys_;
  std::vector<float> retired_keys_;  // [N, D] of the running Append
};

}  // namespace pqcache
