#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

#include "attention/blas_info.h"
#include "attention/torch/threads.h"
#include "tools/commands.h"

// Read by jemalloc, if the program is linked with it. Keys and values on large pages: reading them
// in order is a quarter faster.
extern "C" const char* malloc_conf;
const char* malloc_conf = "thp:always,metadata_thp:always";

namespace pqcache::tools {
namespace {

constexpr CommandEntry kCommands[] = {
    {"train", "train codebooks for a model", CreateTrainCommand},
    {"generate", "continue a prompt", CreateGenerateCommand},
    {"context save", "compute a text once and keep it under a name", CreateContextSaveCommand},
    {"context list", "one line for each stored context", CreateContextListCommand},
    {"context show", "what is known of a stored context", CreateContextShowCommand},
    {"context verify", "read and check every page of one context or of all",
     CreateContextVerifyCommand},
    {"context rm", "remove a stored context and give its space back", CreateContextRemoveCommand},
    {"context repair", "copy what can be read of a damaged store into a new one",
     CreateContextRepairCommand},
    {"check", "compare a policy with exact attention, step by step", CreateCheckCommand},
    {"eval", "perplexity and retrieval tasks under policies", CreateEvalCommand},
    {"report", "results of eval as one HTML page", CreateReportCommand},
    {"bench attention", "a decode step of one layer: exact and approximate, at growing contexts",
     CreateBenchAttentionCommand},
    {"bench model", "prefill and decoding of a whole model, and the part of attention",
     CreateBenchModelCommand},
    {"bench store", "the RocksDB tier beside plain files on the same disk",
     CreateBenchStoreCommand},
    {"bench train", "k-means for all heads of a model, beside FAISS", CreateBenchTrainCommand},
    {"tokenize", "text to token ids", CreateTokenizeCommand},
    {"detokenize", "token ids to text", CreateDetokenizeCommand},
    {"inspect", "describe codebook files, pages and stores, also damaged ones",
     CreateInspectCommand},
    {"doctor", "check libraries, machine and model, and say what mends them", CreateDoctorCommand},
};

constexpr CommandGroup kGroups[] = {
    {"context", "contexts that are computed once and kept in a store"},
    {"bench", "speed, beside the alternatives and the machine's ceilings"},
};

// A store of long contexts has thousands of files, which are fast while they stay open.
void AllowManyOpenFiles() {
  struct rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::max(limit.rlim_cur, std::min<rlim_t>(limit.rlim_max, 1 << 17));
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

// OpenBLAS chooses its kernels while it is loaded, so the program starts itself once more, with the
// choice in the environment: half a second for kernels that are several times as fast. Where that
// cannot be, it goes on.
void UseKernelsOfThisCpu(char** argv) {
  constexpr char kVariable[] = "OPENBLAS_CORETYPE";
  if (std::getenv(kVariable) != nullptr) return;
  const std::string core = attention::BetterBlasCore(attention::DescribeBlas(), ActiveIsa());
  if (core.empty() || ::setenv(kVariable, core.c_str(), 1) != 0) return;
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) ::execv(self.c_str(), argv);
}

}  // namespace
}  // namespace pqcache::tools

int main(int argc, char** argv) {
  pqcache::tools::UseKernelsOfThisCpu(argv);
  pqcache::attention::UseOneTorchThread();
  pqcache::tools::AllowManyOpenFiles();
  return pqcache::tools::RunCommandLine(argc, argv, pqcache::tools::kCommands,
                                        pqcache::tools::kGroups);
}
