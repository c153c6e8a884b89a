#pragma once

// How the benches of one layer describe a measurement that they repeated.

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "pqcache/base/json.h"
#include "tools/medians.h"

namespace pqcache::tools {

// name, ctx, threads, and of the milliseconds the median, the best and the 90th percentile.
inline Json TimedRow(const std::string& name, int64_t ctx, int threads,
                     const std::vector<double>& ms) {
  Json row;
  row.Set("name", name).Set("ctx", ctx).Set("threads", threads);
  row.Set("ms", Median(ms)).Set("ms_best", Percentile(ms, 0));
  row.Set("ms_p90", Percentile(ms, 0.9));
  return row;
}

// The same for people: a line without its end.
inline std::string TimedLine(const std::string& name, int64_t ctx, const std::vector<double>& ms) {
  char line[160];
  std::snprintf(line, sizeof(line), "%9lld tokens  %-22s %9.3f ms (best %.3f)",
                static_cast<long long>(ctx), name.c_str(), Median(ms), Percentile(ms, 0));
  return line;
}

}  // namespace pqcache::tools
