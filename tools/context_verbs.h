#pragma once

// What the verbs of `pqcache context` share.

#include <string>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/cache/manifest.h"

namespace pqcache::tools {

// InvalidArgument unless there is one name, and it can be a context's.
Status CheckOneName(const std::vector<std::string>& names);

Json DescribeContext(const ContextManifest& manifest);

// With the end of the line.
std::string ContextLine(const ContextManifest& manifest);

}  // namespace pqcache::tools
