#pragma once

// Wall-clock time since an object was made or restarted.

#include <chrono>

namespace pqcache::tools {

class Stopwatch {
 public:
  void Restart() { start_ = Clock::now(); }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  double milliseconds() const { return 1000 * seconds(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace pqcache::tools
