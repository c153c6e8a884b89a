#include "pqcache/base/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <string>

namespace pqcache {
namespace {

std::atomic<LogLevel> g_level{LogLevel::kWarning};

}  // namespace

void SetLogLevel(LogLevel level) { g_level.store(level); }

void Log(LogLevel level, std::string_view message) {
  if (level > g_level.load()) return;
  std::string line = level == LogLevel::kWarning ? "pqcache: warning: " : "pqcache: ";
  line.append(message);
  line.push_back('\n');
  std::fwrite(line.data(), 1, line.size(), stderr);
}

ProgressBar::ProgressBar(std::string_view label)
    : label_(label), terminal_(::isatty(STDERR_FILENO) != 0) {}

ProgressBar::~ProgressBar() {
  if (shown_ >= 0) std::fprintf(stderr, "\r\033[K");
}

void ProgressBar::Update(double fraction) {
  if (!terminal_) return;
  constexpr int kWidth = 40;
  const int percent = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * 100.0);
  if (percent == shown_) return;
  shown_ = percent;
  std::string bar(static_cast<size_t>(percent * kWidth / 100), '#');
  bar.resize(kWidth, '.');
  std::fprintf(stderr, "\r%.*s [%s] %3d %%", static_cast<int>(label_.size()), label_.data(),
               bar.c_str(), percent);
}

}  // namespace pqcache
