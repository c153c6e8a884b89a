#include <cuda_runtime_api.h>

#include <utility>

#include "attention/kernels/device_memory.h"
#include "attention/kernels/launch.cuh"

namespace pqcache::attention {

Result<GpuBuffer> GpuBuffer::Allocate(MemoryKind kind, size_t bytes) {
  GpuBuffer buffer;
  if (bytes == 0) return std::move(buffer);
  const bool device = kind == MemoryKind::kDevice;
  const cudaError_t error = device ? cudaMalloc(&buffer.data_, bytes)
                                   : cudaHostAlloc(&buffer.data_, bytes, cudaHostAllocDefault);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // as CudaStatus does
    return Status::OutOfMemory(std::string(device ? "GPU" : "pinned host") + " memory for " +
                               std::to_string(bytes) + " bytes");
  }
  PQCACHE_RETURN_IF_ERROR(CudaStatus("allocate memory", error));
  buffer.kind_ = kind;
  buffer.size_ = bytes;
  return std::move(buffer);
}

GpuBuffer::GpuBuffer(GpuBuffer&& other) noexcept { *this = std::move(other); }

GpuBuffer& GpuBuffer::operator=(GpuBuffer&& other) noexcept {
  if (this == &other) return *this;
  Free();
  kind_ = other.kind_;
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

GpuBuffer::~GpuBuffer() { Free(); }

void GpuBuffer::Free() {
  if (data_ == nullptr) return;
  if (kind_ == MemoryKind::kDevice) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

Status CopyBytes(void* to, const void* from, size_t bytes, GpuStream stream) {
  return CudaStatus("copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
}

Status FillBytes(void* to, int value, size_t bytes, GpuStream stream) {
  return CudaStatus("fill", cudaMemsetAsync(to, value, bytes, stream));
}

Status WaitFor(GpuStream stream) {
  return CudaStatus("run kernels", cudaStreamSynchronize(stream));
}

Result<OwnedStream> OwnedStream::Create() {
  OwnedStream stream;
  PQCACHE_RETURN_IF_ERROR(CudaStatus(
      "create a stream", cudaStreamCreateWithFlags(&stream.stream_, cudaStreamNonBlocking)));
  return std::move(stream);
}

OwnedStream::OwnedStream(OwnedStream&& other) noexcept
    : stream_(std::exchange(other.stream_, nullptr)) {}

OwnedStream::~OwnedStream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

Result<GpuGraph> GpuGraph::Record(GpuStream stream, const std::function<Status()>& work) {
  PQCACHE_RETURN_IF_ERROR(CudaStatus(
      "begin a graph", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal)));
  const Status status = work();
  cudaGraph_t graph = nullptr;
  const cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (!status.ok()) {
    if (error == cudaSuccess) cudaGraphDestroy(graph);
    cudaGetLastError();  // of a capture that the failure has ended
    return status;
  }
  PQCACHE_RETURN_IF_ERROR(CudaStatus("record a graph", error));
  GpuGraph result;
  cudaGraphExec_t executable = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  PQCACHE_RETURN_IF_ERROR(CudaStatus("instantiate a graph", made));
  result.graph_ = executable;
  return std::move(result);
}

GpuGraph::GpuGraph(GpuGraph&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}

GpuGraph::~GpuGraph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph_));
}

Status GpuGraph::Launch(GpuStream stream) const {
  return CudaStatus("launch a graph",
                    cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_), stream));
}

namespace {

struct Event {
  cudaEvent_t event = nullptr;
  Status Create() { return CudaStatus("create an event", cudaEventCreate(&event)); }
  ~Event() {
    if (event != nullptr) cudaEventDestroy(event);
  }
};

}  // namespace

Result<float> TimeOnGpu(GpuStream stream, const std::function<Status()>& work) {
  Event before, after;
  PQCACHE_RETURN_IF_ERROR(before.Create());
  PQCACHE_RETURN_IF_ERROR(after.Create());
  PQCACHE_RETURN_IF_ERROR(CudaStatus("record an event", cudaEventRecord(before.event, stream)));
  PQCACHE_RETURN_IF_ERROR(work());
  PQCACHE_RETURN_IF_ERROR(CudaStatus("record an event", cudaEventRecord(after.event, stream)));
  PQCACHE_RETURN_IF_ERROR(CudaStatus("run kernels", cudaEventSynchronize(after.event)));
  float ms = 0;
  PQCACHE_RETURN_IF_ERROR(
      CudaStatus("read events", cudaEventElapsedTime(&ms, before.event, after.event)));
  return ms;
}

}  // namespace pqcache::attention
