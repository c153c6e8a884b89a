#pragma once

// Flags that several commands share, and what they become.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "attention/decoder/decoder.h"
#include "attention/decoder/session.h"
#include "attention/kernels/device_info.h"
#include "attention/tokenizer/tokenizer.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/cache/codebook_fit.h"
#include "storage/stores.h"
#include "tools/cli.h"

namespace pqcache::tools {

// InvalidArgument naming the flag if its value is not in [low, high], or not in [0, 1].
Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high);
Status CheckShare(const char* name, double value);

// -m, -t, --dtype, --device, --seed
struct ModelFlags {
  std::string model, dtype = "auto", device = "cpu";
  int64_t threads = 0;  // 0: one per core
  int64_t seed = 0;
  bool may_use_gpu = false;  // the command knows --device cuda

  void Declare(Flags* flags);
  Status Prepare();  // checks without loading

  attention::ComputeDType compute = attention::ComputeDType::kAuto;
};

// The policies there are.
std::string PolicyHelp();

// --store and --cache-salt.
void DeclareStoreFlags(Flags* flags, std::string* store, std::string* cache_salt);

// Opens --store and gives back what killed runs left in it.
Result<std::unique_ptr<PageStore>> OpenStore(const std::string& spec, storage::OpenMode mode);

// Says of damage what can be done about it.
Status AdviseRepair(const Status& status, const std::string& store_spec);

// The GPU that --device cuda means; Unsupported, naming the flag, if there is none.
Result<attention::GpuInfo> FirstGpu();

// What a flag --threads means: 0 is one per core.
int ThreadsOf(int64_t threads);

// A loaded model with its threads; the pool outlives the decoder.
struct Model {
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<attention::Decoder> decoder;
};
Result<Model> LoadModel(const ModelFlags& flags);
std::string TokenizerPath(const std::string& model_dir);  // DIR/tokenizer.json
Result<attention::Tokenizer> LoadTokenizer(const std::string& model_dir);

// --codebooks, --attn-top-k, --attn-ratio, --attn-mass, --n-sink, --local-window, --dense-layers,
// --tail, --on-misfit, --gqa, --store, --page-tokens, --cache-salt
struct AttentionFlags {
  std::string codebooks, tail = "drop", gqa = "shared", on_misfit = "warn", store = "memory",
                         cache_salt;
  int64_t top_k = -1, n_sink = 16, local_window = 256, dense_layers = 0, shadow = 0;
  int64_t page_tokens = 16;
  double ratio = -1, mass = -1;  // -1: not given
  SelectionBudget budget;

  void Declare(Flags* flags);
  // Only those that say what is kept, and where.
  void DeclareStorage(Flags* flags);
  // Errors for values out of range. Sets `budget`.
  Status Prepare();

  // Options of one policy. Prepare must have succeeded.
  Result<attention::CacheAttentionOptions> OptionsFor(const std::string& policy) const;
  // For a command with one policy: an error for flags that it does not heed.
  Status RefuseUnused(const attention::CacheAttentionOptions& options,
                      const std::string& policy) const;
  // What the cache must keep for these policies. Loads the codebooks when one scores codes.
  Result<attention::SessionStorage> StorageFor(
      const std::vector<attention::CacheAttentionOptions>& policies, PageStore* store) const;
};

// Text of a file, at most 1 GiB.
Result<std::string> ReadText(const std::string& path);

// Highest resident memory of this process so far.
uint64_t PeakRssBytes();

// Means per decode step and KV head: tokens always attended, scored, selected, estimated; the
// estimated missed mass (null when nothing was scored); recall, mass and output error of judged
// steps.
Json StatsToJson(const attention::AttentionStats& stats);

// Warns of codebooks that do not fit the text; true if there was something to warn of.
bool WarnOfMisfit(const CodebookFit& fit);

// Sets "codebook_fit" of the report, null where nothing is known, and warns, too.
void ReportFit(const CodebookFit& fit, Json* report);

}  // namespace pqcache::tools
