#include "pqcache/policy/block_summaries.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "pqcache/base/top_k.h"
#include "pqcache/base/vector_math.h"

namespace pqcache {
namespace {

bool PerHead(BlockKeys keys) { return keys == BlockKeys::kTop || keys == BlockKeys::kTopMean; }

// Of the code of KTransformers: its largest numbers start from these.
constexpr float kReleasedMaxStart = 0.0f;
constexpr float kReleasedMinMaxStart = std::numeric_limits<float>::min();

int SlotsOf(const BlockSettings& s) {
  if (s.keys == BlockKeys::kMinMax) return 2;
  const bool several = s.keys == BlockKeys::kTop || (s.released && s.keys == BlockKeys::kFixed);
  return several ? s.anchors : 1;
}

}  // namespace

BlockSummaries::BlockSummaries(const BlockSettings& settings, int group, int dim)
    : settings_(settings),
      group_(group),
      dim_(dim),
      sets_(PerHead(settings.keys) ? group : 1),
      slots_(SlotsOf(settings)) {}

void BlockSummaries::SetReceived(const ReceivedAttention& received) {
  if (received.sums == nullptr) return;
  received_.assign(received.sums, received.sums + group_ * received.tokens);
  received_tokens_ = received.tokens;
}

void BlockSummaries::Append(int64_t n, const float* keys) {
  while (n > 0) {
    const int64_t open = std::ssize(open_keys_) / dim_;
    const int64_t added = std::min(n, settings_.block_tokens - open);
    open_keys_.insert(open_keys_.end(), keys, keys + added * dim_);
    tokens_ += added;
    n -= added;
    keys += added * dim_;
    const bool full = open + added == settings_.block_tokens;
    if (!full && !settings_.score_open_block) return;
    // The open block's representatives are made anew.
    vectors_.resize(static_cast<size_t>((tokens_ - 1) / settings_.block_tokens * block_size()));
    vectors_.resize(vectors_.size() + static_cast<size_t>(block_size()), 0.0f);
    Summarise(open_keys_.data(), open + added,
              vectors_.data() + std::ssize(vectors_) - block_size());
    if (full) open_keys_.clear();
  }
}

void BlockSummaries::Summarise(const float* keys, int64_t count, float* block) const {
  const auto largest = [&](float start, float* out) {
    std::fill_n(out, dim_, start);
    for (int64_t i = 0; i < count; ++i) {
      for (int d = 0; d < dim_; ++d) out[d] = std::max(out[d], keys[i * dim_ + d]);
    }
  };
  constexpr float kLeast = std::numeric_limits<float>::lowest();
  switch (settings_.keys) {
    case BlockKeys::kMean:
      for (int64_t i = 0; i < count; ++i) {
        AddScaled(1.0f / static_cast<float>(count), keys + i * dim_, dim_, block);
      }
      return;
    case BlockKeys::kMax:
      return largest(settings_.released ? kReleasedMaxStart : kLeast, block);
    case BlockKeys::kFixed: {
      const int64_t anchors = std::min<int64_t>(settings_.anchors, count);
      for (int64_t a = 0; a < anchors; ++a) {
        AddScaled(1.0f / static_cast<float>(anchors), keys + a * count / anchors * dim_, dim_,
                  block);
      }
      return;
    }
    case BlockKeys::kMinMax:
      largest(settings_.released ? kReleasedMinMaxStart : kLeast, block + dim_);
      std::copy_n(keys, dim_, block);
      for (int64_t i = 1; i < count; ++i) {
        for (int d = 0; d < dim_; ++d) block[d] = std::min(block[d], keys[i * dim_ + d]);
      }
      return;
    case BlockKeys::kTop:
    case BlockKeys::kTopMean:
      for (int g = 0; g < group_; ++g) FillTop(keys, count, g, block + g * set_size());
  }
}

// Tokens of whom no attention is known (those that were generated) count alike: the first ones.
void BlockSummaries::FillTop(const float* keys, int64_t count, int head, float* set) const {
  const int64_t first = tokens_ - count;
  std::vector<float> received(static_cast<size_t>(count), 0.0f);
  for (int64_t i = 0; i < count && first + i < received_tokens_; ++i) {
    received[static_cast<size_t>(i)] =
        received_[static_cast<size_t>(head * received_tokens_ + first + i)];
  }
  std::vector<int32_t> scratch;
  std::vector<int64_t> best;
  SelectTopK(received.data(), count, settings_.anchors, &scratch, &best);
  const bool mean = settings_.keys == BlockKeys::kTopMean;
  const float weight = mean ? 1.0f / static_cast<float>(best.size()) : 1.0f;
  for (size_t a = 0; a < best.size(); ++a) {
    // The released code sums all of them up in the first slot.
    const size_t slot = mean || settings_.released ? 0 : a;
    AddScaled(weight, keys + best[a] * dim_, dim_, set + slot * static_cast<size_t>(dim_));
  }
}

float BlockSummaries::Score(int64_t block, int head, const float* query) const {
  const float* set = vectors_.data() + block * block_size() + (sets_ > 1 ? head : 0) * set_size();
  if (slots_ == 1) return Dot(query, set, dim_);
  float score = 0;
  for (int d = 0; d < dim_; ++d) {
    float best = query[d] * set[d];
    for (int slot = 1; slot < slots_; ++slot)
      best = std::max(best, query[d] * set[slot * dim_ + d]);
    score += best;
  }
  return score;
}

float BlockSummaries::Importance(int64_t block) const {
  const int64_t quarter = settings_.block_tokens / 4;
  const int64_t begin = std::max<int64_t>(0, block * settings_.block_tokens - quarter);
  const int64_t end = std::min(received_tokens_, (block + 1) * settings_.block_tokens + quarter);
  if (end <= begin) return 0;
  float sum = 0;
  for (int g = 0; g < group_; ++g) {
    const auto of_head = received_.begin() + g * received_tokens_;
    sum += std::accumulate(of_head + begin, of_head + end, 0.0f);
  }
  return sum / static_cast<float>(end - begin);
}

uint64_t BlockSummaries::bytes() const {
  return (vectors_.size() + open_keys_.size() + received_.size()) * sizeof(float);
}

}  // namespace pqcache
