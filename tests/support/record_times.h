#pragma once

// Durations that a test reports and does not judge.

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

namespace pqcache::testing {

// Median and maximum, as properties of the running test and as a line of its output.
inline void RecordTimes(const std::string& what, std::vector<double> milliseconds) {
  if (milliseconds.empty()) return;
  std::sort(milliseconds.begin(), milliseconds.end());
  const std::string median = std::to_string(milliseconds[milliseconds.size() / 2]);
  const std::string most = std::to_string(milliseconds.back());
  ::testing::Test::RecordProperty(what + "_median_ms", median);
  ::testing::Test::RecordProperty(what + "_max_ms", most);
  std::cout << what << ": " << milliseconds.size() << " times, median " << median << " ms, at most "
            << most << " ms\n";
}

}  // namespace pqcache::testing
