#pragma once

// Numbers that a process and the one that will kill it both see.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "pqcache/base/check.h"

namespace pqcache::testing {

// T: atomics, zero at first. The file is made if missing.
template <typename T>
class SharedMemory {
 public:
  explicit SharedMemory(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    PQCACHE_CHECK(fd >= 0 && ::ftruncate(fd, sizeof(T)) == 0, "cannot make shared memory");
    memory_ = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    PQCACHE_CHECK(memory_ != MAP_FAILED, "cannot map shared memory");
    ::close(fd);
  }
  ~SharedMemory() { ::munmap(memory_, sizeof(T)); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  T* operator->() const { return static_cast<T*>(memory_); }

 private:
  void* memory_;
};

}  // namespace pqcache::testing
