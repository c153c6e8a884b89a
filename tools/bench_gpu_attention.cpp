#include "tools/bench_gpu_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <utility>

#include "attention/gpu/gpu_attention.h"
#include "attention/kernels/append_tokens.h"
#include "attention/torch/gpu_sdpa.h"
#include "pqcache/base/random.h"
#include "tools/bench_frequencies.h"
#include "tools/medians.h"
#include "tools/timed_rows.h"

namespace pqcache::tools {
namespace {

using attention::GpuAttention;
using attention::GpuAttentionOptions;
using attention::GpuBuffer;
using attention::GpuGraph;
using attention::GpuKvCache;
using attention::GpuKvCacheOptions;
using attention::GpuStream;
using attention::MemoryKind;
using attention::OwnedStream;

constexpr size_t kNumbers = size_t{1} << 24;  // normals that rows are drawn from
constexpr int64_t kChunk = 4096;              // tokens that are appended at a time
constexpr double kBytesOfAllLayers = 3e8;     // that layers in turn have in codes, at least
constexpr int kMostLayers = 8;
constexpr int64_t kOffloadedTokens = 1024;    // that a step selects with rows in host memory
constexpr int64_t kLongestPrefill = 1 << 17;  // whose attention takes a fraction of a second

class GpuAttentionBench {
 public:
  explicit GpuAttentionBench(const GpuAttentionBenchOptions& options)
      : o_(options), random_(options.seed) {}

  Status Run(Json* rows, std::string* text) {
    PQCACHE_ASSIGN_OR_RETURN(OwnedStream stream, OwnedStream::Create());
    stream_ = stream.get();
    PQCACHE_RETURN_IF_ERROR(MakeNumbers());
    for (const int64_t context : o_.contexts) {
      context_ = context;
      PQCACHE_RETURN_IF_ERROR(Fill(0));
      PQCACHE_RETURN_IF_ERROR(Methods(rows, text));
      PQCACHE_RETURN_IF_ERROR(Encoding(rows, text));
      cache_.reset();
      PQCACHE_RETURN_IF_ERROR(Opponents(rows, text));
      if (context_ <= kLongestPrefill && o_.batch == 1) {
        PQCACHE_RETURN_IF_ERROR(Offloaded(rows, text));
      }
    }
    return Status::Ok();
  }

 private:
  int dim() const { return o_.pq.dim; }
  // Tokens of each sequence that are appended at a time; their keys come from half of the numbers.
  int64_t Chunk() const {
    const auto fit = static_cast<int64_t>(kNumbers) / (2 * o_.kv_heads * dim());
    return std::max<int64_t>(1, std::min(kChunk, fit) / o_.batch);
  }

  Status MakeNumbers() {
    std::vector<float> numbers(kNumbers);
    for (float& x : numbers) x = random_.Normal();
    PQCACHE_ASSIGN_OR_RETURN(numbers_,
                             GpuBuffer::Allocate(MemoryKind::kDevice, kNumbers * sizeof(float)));
    PQCACHE_RETURN_IF_ERROR(
        attention::CopyBytes(numbers_.data(), numbers.data(), kNumbers * sizeof(float), stream_));
    const auto out = static_cast<size_t>(o_.batch * o_.heads * dim());
    PQCACHE_ASSIGN_OR_RETURN(out_, GpuBuffer::Allocate(MemoryKind::kDevice, out * sizeof(float)));
    return attention::WaitFor(stream_);
  }

  // n random numbers on the device.
  const float* Normals(int64_t n) {
    return numbers_.as<float>() + random_.Below(kNumbers - static_cast<size_t>(n));
  }

  // Rows of the first `host_tokens` tokens, but for the sinks, in host memory.
  Status Fill(int64_t host_tokens) {
    CodebookSet set;
    const double codes = static_cast<double>(o_.batch) * static_cast<double>(context_) *
                         o_.kv_heads * o_.pq.bytes_per_key();
    layers_ = static_cast<int>(
        std::clamp(std::ceil(kBytesOfAllLayers / codes), 2.0, static_cast<double>(kMostLayers)));
    set.layers = layers_;
    set.kv_heads = o_.kv_heads;
    for (int h = 0; h < layers_ * o_.kv_heads; ++h) {
      HeadCodebook::Parts parts;
      parts.shape = o_.pq;
      for (int i = 0; i < o_.pq.centroids() * dim(); ++i)
        parts.centroids.push_back(random_.Normal());
      for (int i = 0; i < dim() * dim(); ++i) {
        parts.key_transform.push_back(i % (dim() + 1) == 0 ? 1.0f : 0.0f);
      }
      parts.query_transform = parts.key_transform;
      if (o_.position_mean) {
        std::vector<float> mean;
        for (int i = 0; i < dim(); ++i) mean.push_back(random_.Normal());
        PQCACHE_ASSIGN_OR_RETURN(
            parts.position_mean,
            PositionMean::Create(dim(), std::move(mean), LlamaFrequencies(dim())));
      }
      PQCACHE_ASSIGN_OR_RETURN(HeadCodebook head, HeadCodebook::Create(std::move(parts)));
      set.heads.push_back(std::move(head));
    }
    GpuKvCacheOptions options;
    options.layers = layers_;
    options.kv_heads = o_.kv_heads;
    options.dim = dim();
    options.batch = o_.batch;
    options.max_tokens = context_;
    options.window = {16, 256};
    options.host_begin = host_tokens == 0 ? 0 : attention::kGpuPageTokens;
    options.host_end = host_tokens;
    PQCACHE_ASSIGN_OR_RETURN(cache_, GpuKvCache::Create(options, &set));
    const int64_t chunk = Chunk();
    for (int64_t begin = 0; begin < context_; begin += chunk) {
      const int64_t n = std::min(chunk, context_ - begin);
      const std::vector<int32_t> tokens(static_cast<size_t>(o_.batch),
                                        static_cast<int32_t>(begin + n));
      PQCACHE_RETURN_IF_ERROR(cache_->SetTokens(tokens, stream_));
      for (int l = 0; l < layers_; ++l) {
        attention::AppendTokensParams p;
        p.layer = cache_->layer(l);
        p.codebooks = cache_->codebooks(l);
        p.n = static_cast<int>(n);
        p.keys = Normals(o_.batch * n * o_.kv_heads * dim());
        p.values = Normals(o_.batch * n * o_.kv_heads * dim());
        PQCACHE_RETURN_IF_ERROR(attention::AppendTokens(p, stream_));
      }
      PQCACHE_RETURN_IF_ERROR(attention::WaitFor(stream_));
    }
    return Status::Ok();
  }

  // Milliseconds of one layer of work(layer), round after round.
  Result<std::vector<double>> Time(const std::function<Status(int)>& work) {
    const auto all = [&]() -> Status {
      for (int l = 0; l < layers_; ++l) PQCACHE_RETURN_IF_ERROR(work(l));
      return Status::Ok();
    };
    PQCACHE_RETURN_IF_ERROR(all());  // what is made once is made before
    PQCACHE_RETURN_IF_ERROR(attention::WaitFor(stream_));
    PQCACHE_ASSIGN_OR_RETURN(const GpuGraph graph, GpuGraph::Record(stream_, all));
    std::vector<double> ms;
    for (int round = -3; round < o_.rounds; ++round) {
      PQCACHE_ASSIGN_OR_RETURN(
          const float total, attention::TimeOnGpu(stream_, [&] { return graph.Launch(stream_); }));
      if (round >= 0) ms.push_back(total / layers_);
    }
    return ms;
  }

  Status Measure(const char* name, Json* rows, std::string* text,
                 const std::function<Status(int)>& work) {
    PQCACHE_ASSIGN_OR_RETURN(const std::vector<double> ms, Time(work));
    rows->Push(TimedRow(name, context_, 0, ms).Set("batch", o_.batch));
    *text += TimedLine(name, context_, ms) + "\n";
    return Status::Ok();
  }

  // What a prefill adds for a layer: codes of all tokens, appended in chunks.
  Status Encoding(Json* rows, std::string* text) {
    const int64_t chunk = std::min<int64_t>(context_, Chunk());
    const auto append = [&](bool encode) {
      return [this, chunk, encode](int l) -> Status {
        attention::AppendTokensParams p;
        p.layer = cache_->layer(l);
        p.codebooks = encode ? cache_->codebooks(l) : nullptr;
        p.n = static_cast<int>(chunk);
        p.keys = numbers_.as<float>();
        p.values = numbers_.as<float>();
        for (int64_t begin = 0; begin + chunk <= context_; begin += chunk) {
          PQCACHE_RETURN_IF_ERROR(attention::AppendTokens(p, stream_));
        }
        return Status::Ok();
      };
    };
    PQCACHE_RETURN_IF_ERROR(Measure("prefill: store rows", rows, text, append(false)));
    return Measure("prefill: store and encode", rows, text, append(true));
  }

  // libtorch's exact attention, of a decode step and of the prompt.
  Status Opponents(Json* rows, std::string* text) {
    using attention::SdpaKernel;
    const attention::GpuSdpaShape shape{o_.batch, o_.heads, o_.kv_heads, dim(), context_};
    const auto add = [&](const std::string& name, const Result<std::vector<double>>& ms) {
      if (ms.ok()) {
        rows->Push(TimedRow(name, context_, 0, *ms).Set("batch", o_.batch));
        *text += TimedLine(name, context_, *ms) + "\n";
      } else {
        *text += "  " + name + " not run: " + ms.status().message() + "\n";
      }
    };
    add("exact, torch flash",
        attention::TimeSdpaDecode(SdpaKernel::kFlash, shape, layers_, o_.rounds));
    add("exact, torch cudnn",
        attention::TimeSdpaDecode(SdpaKernel::kCudnn, shape, layers_, o_.rounds));
    if (context_ > kLongestPrefill || o_.batch > 1) return Status::Ok();
    add("prefill: torch flash", attention::TimeSdpaPrefill(SdpaKernel::kFlash, shape, 3));
    add("prefill: torch cudnn", attention::TimeSdpaPrefill(SdpaKernel::kCudnn, shape, 3));
    return Status::Ok();
  }

  // One sixteenth of the rows on the GPU, of which a random selection hits as many.
  Status Offloaded(Json* rows, std::string* text) {
    PQCACHE_RETURN_IF_ERROR(Fill(context_ - context_ / 16));
    const float* queries = Normals(int64_t{o_.batch} * o_.heads * dim());
    const float* keys = Normals(int64_t{o_.batch} * o_.kv_heads * dim());
    PQCACHE_ASSIGN_OR_RETURN(const auto some,
                             Attention("pq", false, std::min<int64_t>(kOffloadedTokens, context_)));
    const Status status = Measure("pq 1024, 15/16 in host", rows, text, [&](int l) {
      return some->Step(l, queries, keys, keys, out_.as<float>(), stream_);
    });
    cache_.reset();
    return status;
  }

  Result<std::unique_ptr<GpuAttention>> Attention(const char* policy, bool per_head) {
    return Attention(policy, per_head,
                     std::min(o_.most, SelectionBudget{.ratio = o_.ratio}.TokensFor(context_)));
  }

  Result<std::unique_ptr<GpuAttention>> Attention(const char* policy, bool per_head,
                                                  int64_t tokens) {
    GpuAttentionOptions options;
    options.heads = o_.heads;
    PQCACHE_ASSIGN_OR_RETURN(options.policy, CreatePolicy(policy));
    options.budget.tokens = tokens;
    options.per_head = per_head;
    return GpuAttention::Create(std::move(options), cache_.get());
  }

  Status Methods(Json* rows, std::string* text) {
    const float* queries = Normals(int64_t{o_.batch} * o_.heads * dim());
    const float* keys = Normals(int64_t{o_.batch} * o_.kv_heads * dim());
    auto* out = out_.as<float>();
    PQCACHE_ASSIGN_OR_RETURN(const auto exact, Attention("exact", false));
    PQCACHE_ASSIGN_OR_RETURN(const auto shared, Attention("pq", false));
    PQCACHE_ASSIGN_OR_RETURN(const auto per_head, Attention("pq", true));
    PQCACHE_RETURN_IF_ERROR(Measure("exact", rows, text, [&](int l) {
      return exact->Step(l, queries, keys, keys, out, stream_);
    }));
    PQCACHE_RETURN_IF_ERROR(Measure("pq shared", rows, text, [&](int l) {
      return shared->Step(l, queries, keys, keys, out, stream_);
    }));
    PQCACHE_RETURN_IF_ERROR(Measure("pq per head", rows, text, [&](int l) {
      return per_head->Step(l, queries, keys, keys, out, stream_);
    }));
    return Measure("selection", rows, text,
                   [&](int l) { return shared->Select(l, queries, stream_); });
  }

  const GpuAttentionBenchOptions o_;
  Random random_;
  GpuStream stream_ = nullptr;
  GpuBuffer numbers_, out_;
  int64_t context_ = 0;
  int layers_ = 0;
  std::unique_ptr<GpuKvCache> cache_;
};

}  // namespace

Status BenchGpuAttention(const GpuAttentionBenchOptions& options, Json* rows, std::string* text) {
  return GpuAttentionBench(options).Run(rows, text);
}

}  // namespace pqcache::tools
