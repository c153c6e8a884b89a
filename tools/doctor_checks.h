#pragma once

// What `pqcache doctor` looks at. Functions that judge take what they judge as an argument.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attention/blas_info.h"
#include "pqcache/base/checksum.h"
#include "pqcache/base/json.h"

namespace pqcache::tools {

struct Problem {
  std::string what;  // what was found, then what was expected
  std::string fix;   // a command, or what to do
};

// Below this the reference BLAS is at work, or the cores are; OpenBLAS reaches 30 on old AVX2
// cores.
inline constexpr double kLeastGflopsPerCore = 20;

// Files that a process has loaded: paths, each once, sorted.
struct LoadedLibraries {
  std::vector<std::string> blas;    // BLAS libraries of any make
  std::vector<std::string> openmp;  // OpenMP run-times
};
// From the text of /proc/self/maps.
LoadedLibraries FindLibraries(std::string_view maps);

// True when the products run on OpenBLAS. `loaded` decides if `blas` knows nothing.
bool IsOpenBlas(const attention::BlasInfo& blas, const LoadedLibraries& loaded);
// No OpenBLAS; OpenBLAS with threads of its own under OpenMP callers; several OpenMP run-times.
std::vector<Problem> CheckLibraries(const LoadedLibraries& loaded, const attention::BlasInfo& blas);

// float32 products of 768 x 768 matrices on one thread, the best of several; 10^9 operations/s.
double MeasureGflopsPerCore();
std::optional<Problem> CheckBlasSpeed(double gflops_per_core, bool open_blas);

// Text of a file of /proc; those have no size to ask for. Empty if it cannot be read.
std::string ReadProc(const char* path);

struct CpuInfo {
  std::string name;                          // may be empty
  std::vector<std::string> present, absent;  // of the instruction sets that some code here can use
};
// From the text of /proc/cpuinfo.
CpuInfo FindCpu(std::string_view cpuinfo);

// Bytes of a line such as "MemTotal:  24 kB" of /proc/meminfo; nothing if there is no such line.
std::optional<int64_t> FindMemory(std::string_view meminfo, std::string_view name);

// Facts and problems of a Hugging Face directory: config, weights, tokenizer. `fingerprint` is set
// when the weights can be read.
struct ModelCheck {
  Json facts;
  std::vector<Problem> problems;
  std::optional<Fingerprint> fingerprint;
};
ModelCheck CheckModel(const std::string& dir);

// Of a codebook file for that model; `fingerprint` is the checkpoint's and may be unknown.
ModelCheck CheckCodebooks(const std::string& path, const std::optional<Fingerprint>& fingerprint,
                          const std::string& model_dir);

}  // namespace pqcache::tools
