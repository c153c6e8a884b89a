#pragma once

// Results of evaluation runs as one HTML page: score tables, charts, needle heat maps, settings. It
// needs nothing from elsewhere: no scripts, no fonts, no network. Every number is one of
// metrics.json, but for the heat maps, which are means over predictions.jsonl.

#include <span>
#include <string>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::tools {

// What a run's folder holds.
struct RunFolder {
  std::string name;
  Json config;
  Json::Array rows;         // of metrics.json
  Json::Array predictions;  // lines; may be empty
};

// Reads the folder of `pqcache eval -o`. Errors name the file.
Result<RunFolder> ReadRunFolder(const std::string& path);

std::string MakePage(std::span<const RunFolder> runs);

}  // namespace pqcache::tools
