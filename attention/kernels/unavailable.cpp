// What builds without CUDA answer.

#include "attention/kernels/append_tokens.h"
#include "attention/kernels/device_info.h"
#include "attention/kernels/device_memory.h"
#include "attention/kernels/gpu_shapes.h"
#include "attention/kernels/select_tokens.h"
#include "attention/kernels/sparse_decode.h"
#include "attention/kernels/value_sums.h"

namespace pqcache::attention {
namespace {

Status NoCuda() {
  return Status::Unsupported("this build has no CUDA code; configure with PQCACHE_CUDA=ON");
}

}  // namespace

bool HasCuda() { return false; }
Result<std::vector<GpuInfo>> ListGpus() { return NoCuda(); }

Result<GpuBuffer> GpuBuffer::Allocate(MemoryKind, size_t) { return NoCuda(); }
GpuBuffer::GpuBuffer(GpuBuffer&&) noexcept = default;
GpuBuffer& GpuBuffer::operator=(GpuBuffer&&) noexcept = default;
GpuBuffer::~GpuBuffer() = default;
Status CopyBytes(void*, const void*, size_t, GpuStream) { return NoCuda(); }
Status FillBytes(void*, int, size_t, GpuStream) { return NoCuda(); }
Status WaitFor(GpuStream) { return NoCuda(); }
Result<OwnedStream> OwnedStream::Create() { return NoCuda(); }
OwnedStream::OwnedStream(OwnedStream&&) noexcept = default;
OwnedStream::~OwnedStream() = default;
Result<GpuGraph> GpuGraph::Record(GpuStream, const std::function<Status()>&) { return NoCuda(); }
GpuGraph::GpuGraph(GpuGraph&&) noexcept = default;
GpuGraph::~GpuGraph() = default;
Status GpuGraph::Launch(GpuStream) const { return NoCuda(); }
Result<float> TimeOnGpu(GpuStream, const std::function<Status()>&) { return NoCuda(); }

Status CheckGpuShapes(int, int, int) { return NoCuda(); }
Status AppendTokens(const AppendTokensParams&, GpuStream) { return NoCuda(); }
Status AdvanceTokens(int32_t*, int, int, GpuStream) { return NoCuda(); }
size_t SelectWorkspaceBytes(const SelectTokensParams&) { return 0; }
Status SelectTokens(const SelectTokensParams&, GpuStream, const AppendTokensParams*) {
  return NoCuda();
}
size_t SparseDecodeWorkspaceBytes(const SparseDecodeParams&) { return 0; }
Status SparseDecode(const SparseDecodeParams&, GpuStream) { return NoCuda(); }
Status UpdateValueSums(const GpuLayer&, const GpuWindow&, GpuStream) { return NoCuda(); }

}  // namespace pqcache::attention
