// What builds answer whose libtorch has no CUDA.

#include "attention/torch/gpu_sdpa.h"
#include "attention/torch/gpu_session.h"

namespace pqcache::attention {

struct GpuModel::Impl {};
struct GpuSession::Impl {};

Result<std::unique_ptr<GpuModel>> GpuModel::Load(const std::string&, ComputeDType) {
  return Status::Unsupported(
      "this build runs models on the CPU only; configure with PQCACHE_CUDA=ON and a Python whose "
      "torch has CUDA");
}
GpuModel::~GpuModel() = default;
const ModelSpec& GpuModel::spec() const { PQCACHE_CHECK(false, "there is no model"); }
DType GpuModel::compute_dtype() const { return DType::kF32; }
const Fingerprint& GpuModel::fingerprint() const { PQCACHE_CHECK(false, "there is no model"); }

Result<std::unique_ptr<GpuSession>> GpuSession::Create(const GpuModel*, GpuSessionOptions) {
  return Status::Unsupported("this build runs models on the CPU only");
}
GpuSession::~GpuSession() = default;
Status GpuSession::Prefill(std::span<const int64_t>, std::vector<float>*) { return {}; }
Status GpuSession::Step(int64_t, std::vector<float>*) { return {}; }
int64_t GpuSession::tokens() const { return 0; }
const GpuKvCache& GpuSession::cache() const { PQCACHE_CHECK(false, "there is no session"); }
Result<AttentionStats> GpuSession::Stats() { return AttentionStats(); }

Result<std::vector<double>> TimeSdpaDecode(SdpaKernel, const GpuSdpaShape&, int, int) {
  return Status::Unsupported("this build's libtorch has no CUDA");
}
Result<std::vector<double>> TimeSdpaPrefill(SdpaKernel, const GpuSdpaShape&, int) {
  return Status::Unsupported("this build's libtorch has no CUDA");
}

}  // namespace pqcache::attention
