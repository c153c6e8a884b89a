#pragma once

// Owning host memory aligned to 64 bytes (a cache line and an AVX-512 register), from 2 MiB on to
// a large page. Move-only; new memory is zeroed. One owner, no locking.

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

namespace pqcache {

template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kHugePage = size_t{2} << 20;

  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t size) { Resize(size); }
  // Of `size` elements without values, to be written before they are read.
  static AlignedBuffer ForOverwrite(size_t size) {
    AlignedBuffer buffer;
    if (size > 0) buffer.Reallocate(size);
    buffer.size_ = size;
    return buffer;
  }
  // The source is empty afterwards.
  AlignedBuffer(AlignedBuffer&& other) noexcept { *this = std::move(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
    return *this;
  }

  // Keeps the first min(old, new) elements; new ones are zero. Capacity grows by doubling.
  void Resize(size_t size) {
    if (size > capacity_) Reallocate(size > 2 * capacity_ ? size : 2 * capacity_);
    if (size > size_) std::memset(data_.get() + size_, 0, (size - size_) * sizeof(T));
    size_ = size;
  }

  size_t size() const { return size_; }
  size_t capacity_bytes() const { return capacity_ * sizeof(T); }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  std::span<T> span() { return {data_.get(), size_}; }
  std::span<const T> span() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };

  // Large ones ask for large pages: small ones cost two fifths of the speed of reading.
  void Reallocate(size_t capacity) {
    const size_t wanted = capacity * sizeof(T);
    const size_t alignment = wanted < kHugePage ? kAlignment : kHugePage;
    const size_t bytes = (wanted + alignment - 1) / alignment * alignment;
    std::unique_ptr<T[], Free> grown(static_cast<T*>(std::aligned_alloc(alignment, bytes)));
    if (grown == nullptr) throw std::bad_alloc();
    if (alignment == kHugePage) (void)::madvise(grown.get(), bytes, MADV_HUGEPAGE);
    if (size_ > 0) std::memcpy(grown.get(), data_.get(), size_ * sizeof(T));
    data_ = std::move(grown);
    capacity_ = bytes / sizeof(T);
  }

  std::unique_ptr<T[], Free> data_;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace pqcache
