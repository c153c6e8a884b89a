#include "attention/decoder/self_text.h"

#include <algorithm>
#include <cmath>

#include "attention/decoder/token_sampler.h"
#include "attention/partial_attention.h"
#include "attention/sliding_window.h"
#include "pqcache/base/aligned_buffer.h"

namespace pqcache::attention {
namespace {

// Exact attention of B sequences that advance together, one row each per call.
class BatchAttention : public AttentionBackend {
 public:
  BatchAttention(const ModelSpec& spec, int64_t batch, int64_t capacity, ThreadPool* pool)
      : spec_(spec), batch_(batch), capacity_(capacity), pool_(pool) {
    const size_t rows = static_cast<size_t>(batch * capacity) * spec.kv_heads;
    layers_.resize(static_cast<size_t>(spec.layers));
    for (AlignedBuffer<float>& layer : layers_) layer.Resize(rows * 2 * spec.head_dim);
  }

  Status Attend(const AttentionInput& input, float* out) override {
    float* layer = layers_[static_cast<size_t>(input.layer)].data();
    pool_->Run(batch_, [&](int64_t b) { AttendSequence(input, b, layer, out); });
    return Status::Ok();
  }

 private:
  void AttendSequence(const AttentionInput& input, int64_t b, float* layer, float* out) const {
    const int64_t dim = spec_.head_dim;
    const int group = spec_.group();
    const int64_t position = input.positions[b];
    const int64_t first = FirstVisible(position, spec_.sliding_window);
    const RowFormat format{DType::kF32, static_cast<int>(dim),
                           dim * static_cast<int64_t>(sizeof(float))};
    PartialAttention state;
    std::vector<const uint8_t*> rows;
    for (int64_t h = 0; h < spec_.kv_heads; ++h) {
      float* head = layer + (b * spec_.kv_heads + h) * capacity_ * 2 * dim;
      const int64_t source = (b * spec_.kv_heads + h) * dim;
      std::copy_n(input.keys + source, dim, head + position * 2 * dim);
      std::copy_n(input.values + source, dim, head + position * 2 * dim + dim);
      rows.clear();
      for (int64_t t = first; t <= position; ++t) {
        rows.push_back(reinterpret_cast<const uint8_t*>(head + t * 2 * dim));
      }
      const int64_t target = (b * spec_.heads + h * group) * dim;
      state.Reset(group, static_cast<int>(dim));
      state.AddRows(format, rows, input.queries + target,
                    1.0f / std::sqrt(static_cast<float>(dim)));
      state.Finish(out + target);
    }
  }

  const ModelSpec& spec_;
  int64_t batch_, capacity_;
  ThreadPool* pool_;
  std::vector<AlignedBuffer<float>> layers_;  // [B, Hkv, capacity, K then V]
};

Status SampleBatch(const Decoder& decoder, const SelfTextOptions& o, int64_t first_sequence,
                   int64_t batch, const std::function<void(int64_t)>& step_done,
                   std::vector<std::vector<int64_t>>* out) {
  const ModelSpec& spec = decoder.spec();
  BatchAttention attention(spec, batch, o.sequence_tokens, decoder.pool());
  std::vector<TokenSampler> samplers;
  std::vector<std::vector<int64_t>> sequences(static_cast<size_t>(batch));
  std::vector<int64_t> tokens, positions(static_cast<size_t>(batch));
  for (int64_t b = 0; b < batch; ++b) {
    samplers.emplace_back(SamplingOptions{
        .temperature = 1, .seed = MixSeed(o.seed, static_cast<uint64_t>(first_sequence + b))});
    tokens.push_back(std::max<int64_t>(0, spec.bos_token));
  }
  std::vector<float> logits;
  for (int64_t t = 0; t < o.sequence_tokens; ++t) {
    std::fill(positions.begin(), positions.end(), t);
    for (size_t b = 0; b < tokens.size(); ++b) sequences[b].push_back(tokens[b]);
    if (t + 1 < o.sequence_tokens) {
      PQCACHE_RETURN_IF_ERROR(decoder.Forward(tokens, positions, &attention, batch, &logits));
      decoder.pool()->Run(batch, [&](int64_t b) {
        const std::span<const float> row(logits.data() + b * spec.vocab,
                                         static_cast<size_t>(spec.vocab));
        tokens[static_cast<size_t>(b)] = samplers[static_cast<size_t>(b)].Pick(row);
      });
    }
    step_done(batch);
  }
  for (auto& sequence : sequences) out->push_back(std::move(sequence));
  return Status::Ok();
}

}  // namespace

Result<std::vector<std::vector<int64_t>>> SampleSelfText(
    const Decoder& decoder, const SelfTextOptions& options,
    const std::function<void(double)>& progress) {
  SelfTextOptions o = options;
  o.sequence_tokens = std::min(o.sequence_tokens, decoder.spec().max_positions);
  // Keys and values of a batch stay below 1 GiB (or one sequence's). The text does not depend on
  // the batch, since every sequence has a generator of its own.
  const ModelSpec& spec = decoder.spec();
  const int64_t sequence_bytes = spec.layers * spec.kv_heads * o.sequence_tokens * 2 *
                                 spec.head_dim * static_cast<int64_t>(sizeof(float));
  o.batch = std::clamp<int64_t>((int64_t{1} << 30) / sequence_bytes, 1, o.batch);
  const int64_t sequences = (o.tokens + o.sequence_tokens - 1) / o.sequence_tokens;
  const int64_t total = sequences * o.sequence_tokens;
  int64_t done = 0;
  std::vector<std::vector<int64_t>> out;
  for (int64_t first = 0; first < sequences; first += o.batch) {
    PQCACHE_RETURN_IF_ERROR(SampleBatch(
        decoder, o, first, std::min(o.batch, sequences - first),
        [&](int64_t rows) {
          done += rows;
          if (progress) progress(static_cast<double>(done) / static_cast<double>(total));
        },
        &out));
  }
  return out;
}

}  // namespace pqcache::attention
