#pragma once

// Lines to stderr. Results never go here; they go to stdout. Thread-safe: a line is one write.

#include <string_view>

namespace pqcache {

enum class LogLevel { kWarning, kInfo, kDebug };

// Lines above this level are dropped; kWarning at start.
void SetLogLevel(LogLevel level);

// Writes "pqcache: warning: message" (kWarning) or "pqcache: message".
void Log(LogLevel level, std::string_view message);

// A progress bar on stderr when that is a terminal, nothing otherwise. Not thread-safe.
class ProgressBar {
 public:
  // `label` must outlive the bar.
  explicit ProgressBar(std::string_view label);
  ~ProgressBar();
  // `fraction` in [0, 1].
  void Update(double fraction);

 private:
  std::string_view label_;
  bool terminal_;
  int shown_ = -1;
};

}  // namespace pqcache
