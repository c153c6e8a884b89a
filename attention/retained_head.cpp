#include "attention/retained_head.h"

#include <algorithm>
#include <cmath>

#include "pqcache/base/check.h"
#include "pqcache/base/vector_math.h"
#include "pqcache/cache/row_codec.h"

namespace pqcache::attention {

RetainedHead::RetainedHead(std::unique_ptr<TokenRetention> retention, int group, int dim,
                           DType dtype, const Rope* rope)
    : retention_(std::move(retention)),
      group_(group),
      dim_(dim),
      format_{dtype, dim, static_cast<int64_t>(DTypeSize(dtype)) * dim},
      row_bytes_(2 * DTypeSize(dtype) * static_cast<size_t>(dim)),
      rope_(rope),
      kept_(static_cast<size_t>(retention_->lists())) {
  PQCACHE_CHECK(rope != nullptr || retention_->moving_sinks() == 0, "angles for moving sinks");
}

std::vector<int64_t> RetainedHead::Begin(const ReceivedAttention& received) {
  std::vector<int64_t> all;
  for (int i = 0; i < lists(); ++i) {
    List& list = kept_[static_cast<size_t>(i)];
    retention_->Begin(i, received, &list.positions);
    for (const int64_t position : list.positions) {
      list.received.push_back(
          received.sums == nullptr ? 0.0f : received.sums[i * received.tokens + position]);
    }
    all.insert(all.end(), list.positions.begin(), list.positions.end());
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  constexpr size_t kSpareRows = 8;  // so that the first tokens that come do not double the memory
  rows_.Resize((all.size() + kSpareRows) * row_bytes_);
  rows_.Resize(0);
  return all;
}

void RetainedHead::Fill(std::span<const int64_t> positions, const float* keys,
                        const float* values) {
  for (size_t i = 0; i < positions.size(); ++i) {
    const uint32_t slot =
        AddRow(keys + i * static_cast<size_t>(dim_), values + i * static_cast<size_t>(dim_));
    for (List& list : kept_) {
      const size_t next = list.slots.size();
      if (next == list.positions.size() || list.positions[next] != positions[i]) continue;
      list.slots.push_back(slot);
      ++uses_[slot];
    }
  }
}

uint32_t RetainedHead::AddRow(const float* key, const float* value) {
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(uses_.size()));
    uses_.push_back(0);
    rows_.Resize(uses_.size() * row_bytes_);
  }
  const uint32_t slot = free_.back();
  free_.pop_back();
  uint8_t* row = rows_.data() + slot * row_bytes_;
  StoreRow(key, dim_, format_.dtype, row);
  StoreRow(value, dim_, format_.dtype, row + format_.value_offset);
  return slot;
}

void RetainedHead::DropFor(int64_t coming) {
  for (int i = 0; i < lists(); ++i) {
    List& list = kept_[static_cast<size_t>(i)];
    retention_->Drop(i, {list.positions, list.received}, coming, &places_);
    if (places_.empty()) continue;
    size_t to = 0, next = 0;
    for (size_t from = 0; from < list.positions.size(); ++from) {
      if (next < places_.size() && places_[next] == from) {
        ++next;
        if (--uses_[list.slots[from]] == 0) free_.push_back(list.slots[from]);
        continue;
      }
      list.positions[to] = list.positions[from];
      list.slots[to] = list.slots[from];
      list.received[to++] = list.received[from];
    }
    list.positions.resize(to);
    list.slots.resize(to);
    list.received.resize(to);
  }
}

void RetainedHead::Step(int64_t n, int64_t position, const float* keys, const float* values,
                        int64_t stride, const float* queries, int64_t query_stride, float* out) {
  DropFor(n);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t slot = AddRow(keys + i * stride, values + i * stride);
    uses_[slot] = static_cast<uint32_t>(kept_.size());
    for (List& list : kept_) {
      list.positions.push_back(position + i);
      list.slots.push_back(slot);
      list.received.push_back(0.0f);
    }
  }
  const int queries_of_list = group_ / lists();
  for (int64_t i = 0; i < n; ++i) {
    for (int list = 0; list < lists(); ++list) {
      const int64_t visible = std::ssize(kept_[static_cast<size_t>(list)].positions) - (n - 1 - i);
      const int64_t offset = i * query_stride + int64_t{list} * queries_of_list * dim_;
      Attend(list, visible, position + i, queries + offset, out + offset);
    }
  }
}

void RetainedHead::Attend(int list, int64_t visible, int64_t position, const float* queries,
                          float* out) {
  List& kept = kept_[static_cast<size_t>(list)];
  state_.Reset(group_ / lists(), dim_);
  pointers_.clear();
  for (int64_t i = 0; i < visible; ++i) {
    pointers_.push_back(Row(kept.slots[static_cast<size_t>(i)]));
  }
  if (retention_->needs_received()) {
    AttendAndSum(&kept, visible, queries);
  } else if (retention_->moving_sinks() > 0) {
    AttendMoved(kept, visible, position, queries);
  } else {
    state_.AddRows(format_, pointers_, queries, 1.0f / std::sqrt(static_cast<float>(dim_)));
  }
  state_.Finish(out);
}

// A rotation of the query by the tokens that are gone puts it at its place in the list, as seen
// from the first tokens; newer ones follow one another as in the text.
void RetainedHead::AttendMoved(const List& list, int64_t visible, int64_t position,
                               const float* queries) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
  const auto sinks = static_cast<size_t>(std::min(retention_->moving_sinks(), visible));
  const std::span<const uint8_t* const> rows(pointers_);
  const int64_t gone = visible - 1 - position;
  PQCACHE_CHECK(list.positions[sinks - 1] == static_cast<int64_t>(sinks) - 1, "first tokens");
  const int heads = group_ / lists();
  moved_.assign(queries, queries + heads * dim_);
  rope_->Apply(1, &gone, heads, dim_, moved_.data());
  state_.AddRows(format_, rows.first(sinks), moved_.data(), scale);
  state_.AddRows(format_, rows.subspan(sinks), queries, scale);
}

void RetainedHead::AttendAndSum(List* list, int64_t visible, const float* query) {
  PQCACHE_CHECK(lists() == group_, "sums are of one query head");
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim_));
  logits_.resize(static_cast<size_t>((visible + kRowBlock - 1) / kRowBlock * kRowBlock));
  for (int64_t begin = 0; begin < visible; begin += kRowBlock) {
    const RowBlockTask task{format_, pointers_, begin, std::min(kRowBlock, visible - begin), 1};
    RowLogits(task, query, scale, logits_.data() + begin);
  }
  state_.AddRowsWithLogits(format_, pointers_, logits_.data(), visible);
  ExpInPlace(logits_.data(), visible, state_.Lse(0));
  AddScaled(1.0f, logits_.data(), visible, list->received.data());
}

double RetainedHead::attended() const {
  double sum = 0;
  for (const List& list : kept_) sum += static_cast<double>(list.positions.size());
  return sum / static_cast<double>(kept_.size());
}

uint64_t RetainedHead::bytes() const {
  uint64_t bytes = rows_.capacity_bytes();
  for (const List& list : kept_) {
    bytes += list.positions.size() * (sizeof(int64_t) + sizeof(uint32_t) + sizeof(float));
  }
  return bytes;
}

}  // namespace pqcache::attention
