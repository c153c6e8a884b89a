#pragma once

// Speed of the RocksDB tier beside plain files with checksums, on the same disk and in the same
// run: a context is written whole and synced; warm pages are read back in batches, as a decode step
// does, and one by one.

#include <cstdint>
#include <string>

#include "pqcache/base/status.h"
#include "pqcache/cache/page_codec.h"
#include "tools/bench_machine.h"
#include "tools/cli.h"

namespace pqcache::tools {

struct StoreBenchOptions {
  std::string folder =
      ".";  // on the disk to be measured; a scratch folder is made in it and removed
  PageShape page;
  int layers = 8, kv_heads = 4;
  int64_t tokens = 16384;
  int rounds = 5;   // of which the medians are given
  int batch = 128;  // pages of one read
  int threads = 1;  // that share a batch in the second measurement of reads
  uint64_t seed = 0;
  MachineCeilings ceilings;
};

// Adds rows to `rows` and a table to `text`.
Status BenchStore(const StoreBenchOptions& options, Json* rows, std::string* text);

}  // namespace pqcache::tools
