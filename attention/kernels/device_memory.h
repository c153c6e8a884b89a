#pragma once

// Memory of a GPU, pinned host memory, streams and graphs, owned. Errors of the driver are
// kInternal, a device or host without room kOutOfMemory, builds without CUDA kUnsupported.
// One thread at a time per object; all belong to the device that is current when they are made.

#include <cstddef>
#include <cstdint>
#include <functional>

#include "attention/kernels/gpu_types.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

enum class MemoryKind { kDevice, kPinnedHost };

// Uninitialised bytes, 256-byte aligned. Pinned host memory has the same address on the device.
class GpuBuffer {
 public:
  GpuBuffer() = default;
  static Result<GpuBuffer> Allocate(MemoryKind kind, size_t bytes);
  GpuBuffer(GpuBuffer&& other) noexcept;
  GpuBuffer& operator=(GpuBuffer&& other) noexcept;
  ~GpuBuffer();

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  void Free();
  MemoryKind kind_ = MemoryKind::kDevice;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Copies between any two memories, in order of the stream; with pageable host memory it waits.
Status CopyBytes(void* to, const void* from, size_t bytes, GpuStream stream);
Status FillBytes(void* to, int value, size_t bytes, GpuStream stream);

// Waits, and gives the first error of what ran on the stream.
Status WaitFor(GpuStream stream);

class OwnedStream {
 public:
  static Result<OwnedStream> Create();
  OwnedStream(OwnedStream&& other) noexcept;
  OwnedStream& operator=(OwnedStream&&) = delete;
  ~OwnedStream();
  GpuStream get() const { return stream_; }

 private:
  OwnedStream() = default;
  GpuStream stream_ = nullptr;
};

// What `work` puts on a stream, recorded once and launched as one.
class GpuGraph {
 public:
  static Result<GpuGraph> Record(GpuStream stream, const std::function<Status()>& work);
  GpuGraph(GpuGraph&& other) noexcept;
  GpuGraph& operator=(GpuGraph&&) = delete;
  ~GpuGraph();
  Status Launch(GpuStream stream) const;

 private:
  GpuGraph() = default;
  void* graph_ = nullptr;  // a cudaGraphExec_t
};

// Milliseconds that `work` takes on the stream, by events before and after it.
Result<float> TimeOnGpu(GpuStream stream, const std::function<Status()>& work);

}  // namespace pqcache::attention
