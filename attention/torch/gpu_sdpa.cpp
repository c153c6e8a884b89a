#include "attention/torch/gpu_sdpa.h"

#include <ATen/Context.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <functional>

#include "attention/torch/call_torch.h"

namespace pqcache::attention {
namespace {

// Allows one kernel while it lives, and all of them afterwards.
class OneKernel {
 public:
  explicit OneKernel(SdpaKernel kernel) {
    Set(kernel == SdpaKernel::kFlash, kernel == SdpaKernel::kCudnn, false);
  }
  ~OneKernel() { Set(true, true, true); }

 private:
  static void Set(bool flash, bool cudnn, bool others) {
    at::Context& context = at::globalContext();
    context.setSDPUseFlash(flash);
    context.setSDPUseCuDNN(cudnn);
    context.setSDPUseMemEfficient(others);
    context.setSDPUseMath(others);
  }
};

at::Tensor Random(const GpuSdpaShape& s, int heads, int64_t rows) {
  return at::randn({s.batch, heads, rows, s.dim},
                   at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA));
}

std::vector<double> TimeRounds(int rounds, const c10::cuda::CUDAStream& stream,
                               const std::function<void()>& work) {
  std::vector<double> ms;
  for (int round = -3; round < rounds; ++round) {
    at::cuda::CUDAEvent before(cudaEventDefault), after(cudaEventDefault);
    before.record(stream);
    work();
    after.record(stream);
    after.synchronize();
    if (round >= 0) ms.push_back(before.elapsed_time(after));
  }
  return ms;
}

// What work(stream) measures while libtorch has one kernel and runs on that stream; gives back the
// memory of its tensors, which others want.
Result<std::vector<double>> RunWith(
    SdpaKernel kernel,
    const std::function<std::vector<double>(const c10::cuda::CUDAStream&)>& work) {
  std::vector<double> ms;
  const Status status = CallTorch([&] {
    const c10::InferenceMode inference;
    const OneKernel only(kernel);
    const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
    const c10::cuda::CUDAStreamGuard guard(stream);
    ms = work(stream);
  });
  c10::cuda::CUDACachingAllocator::emptyCache();
  PQCACHE_RETURN_IF_ERROR(status);
  return ms;
}

at::Tensor Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal) {
  return at::scaled_dot_product_attention(q, k, v, {}, 0.0, causal, std::nullopt,
                                          /*enable_gqa=*/true);
}

}  // namespace

Result<std::vector<double>> TimeSdpaDecode(SdpaKernel kernel, const GpuSdpaShape& s, int layers,
                                           int rounds) {
  return RunWith(kernel, [&](const c10::cuda::CUDAStream& stream) {
    const at::Tensor q = Random(s, s.heads, 1);
    std::vector<at::Tensor> keys, values;
    for (int l = 0; l < layers; ++l) {
      keys.push_back(Random(s, s.kv_heads, s.tokens));
      values.push_back(Random(s, s.kv_heads, s.tokens));
    }
    const auto step = [&] {
      for (size_t l = 0; l < keys.size(); ++l) Attend(q, keys[l], values[l], false);
    };
    step();
    stream.synchronize();
    at::cuda::CUDAGraph graph;
    graph.capture_begin();
    step();
    graph.capture_end();
    std::vector<double> ms = TimeRounds(rounds, stream, [&] { graph.replay(); });
    for (double& x : ms) x /= layers;
    return ms;
  });
}

Result<std::vector<double>> TimeSdpaPrefill(SdpaKernel kernel, const GpuSdpaShape& s, int rounds) {
  return RunWith(kernel, [&](const c10::cuda::CUDAStream& stream) {
    const at::Tensor q = Random(s, s.heads, s.tokens);
    const at::Tensor k = Random(s, s.kv_heads, s.tokens), v = Random(s, s.kv_heads, s.tokens);
    return TimeRounds(rounds, stream, [&] { Attend(q, k, v, true); });
  });
}

}  // namespace pqcache::attention
