#include "tools/doctor_checks.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "attention/gemm.h"
#include "attention/model/checkpoint.h"
#include "attention/model/model_fingerprint.h"
#include "attention/model/model_spec.h"
#include "attention/model/weight_check.h"
#include "pqcache/base/single_thread.h"
#include "pqcache/base/spec_string.h"
#include "pqcache/index/codebook.h"
#include "tools/model_flags.h"

namespace pqcache::tools {
namespace {

constexpr char kInstallOpenBlas[] = "apt-get install libopenblas0-openmp";

bool Contains(std::string_view text, std::string_view piece) {
  return text.find(piece) != std::string_view::npos;
}

std::string Join(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : " and ") + part;
  return text;
}

template <typename F>
void ForEachLine(std::string_view text, const F& use) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    use(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
}

// True for "libgomp.so.1", "libgomp-a34b.so.1", "libiomp5.so"; false for "libompitrace.so".
bool IsLibrary(std::string_view file, std::string_view name) {
  if (!file.starts_with(name) || !Contains(file, ".so")) return false;
  const char next = file[name.size()];
  return next == '.' || next == '-' || (next >= '0' && next <= '9');
}

bool IsOpenMp(std::string_view file) {
  if (file.starts_with("libgomp-plugin")) return false;  // offloading; there is a run-time besides
  return IsLibrary(file, "libgomp") || IsLibrary(file, "libomp") || IsLibrary(file, "libiomp");
}

bool IsBlas(std::string_view file) {
  return IsLibrary(file, "libblas") || file.starts_with("libopenblas") ||
         file.starts_with("libmkl_") || IsLibrary(file, "libblis") ||
         file.starts_with("libsatlas") || file.starts_with("libtatlas");
}

bool HasOwnThreads(const attention::BlasInfo& blas, const LoadedLibraries& loaded) {
  if (!blas.config.empty()) {
    return !Contains(blas.config, "USE_OPENMP") && !Contains(blas.config, "SINGLE_THREADED");
  }
  return Contains(Join(loaded.blas), "openblas-pthread");
}

// The value behind "name   :" in a file of /proc.
std::optional<std::string> FindValue(std::string_view text, std::string_view name) {
  std::optional<std::string> value;
  ForEachLine(text, [&](std::string_view line) {
    const size_t colon = line.find(':');
    if (value.has_value() || colon == std::string_view::npos) return;
    std::string_view key = line.substr(0, colon);
    while (key.ends_with(' ') || key.ends_with('\t')) key.remove_suffix(1);
    if (key != name) return;
    line.remove_prefix(colon + 1);
    while (line.starts_with(' ') || line.starts_with('\t')) line.remove_prefix(1);
    value = std::string(line);
  });
  return value;
}

}  // namespace

LoadedLibraries FindLibraries(std::string_view maps) {
  std::set<std::string> blas, openmp;
  ForEachLine(maps, [&](std::string_view line) {
    const size_t slash = line.find('/');
    if (slash == std::string_view::npos) return;
    const std::string_view path = line.substr(slash);
    const std::string_view file = path.substr(path.rfind('/') + 1);
    if (IsBlas(file)) blas.emplace(path);
    if (IsOpenMp(file)) openmp.emplace(path);
  });
  return {{blas.begin(), blas.end()}, {openmp.begin(), openmp.end()}};
}

bool IsOpenBlas(const attention::BlasInfo& blas, const LoadedLibraries& loaded) {
  if (!blas.config.empty()) return true;
  return Contains(blas.library.empty() ? Join(loaded.blas) : blas.library, "openblas");
}

std::vector<Problem> CheckLibraries(const LoadedLibraries& loaded,
                                    const attention::BlasInfo& blas) {
  std::vector<Problem> problems;
  if (!IsOpenBlas(blas, loaded)) {
    const std::string found = blas.library.empty() ? Join(loaded.blas) : blas.library;
    problems.push_back({"matrix products come from " +
                            (found.empty() ? "an unknown library" : found) + ", expected OpenBLAS",
                        std::string(kInstallOpenBlas) +
                            "; where it is installed: update-alternatives --config "
                            "libblas.so.3-x86_64-linux-gnu, and unset LD_LIBRARY_PATH"});
  } else if (HasOwnThreads(blas, loaded)) {
    problems.push_back(
        {"OpenBLAS starts threads of its own (its pthread flavour) inside OpenMP "
         "threads, expected the OpenMP flavour",
         kInstallOpenBlas});
  }
  if (loaded.openmp.size() > 1) {
    problems.push_back({std::to_string(loaded.openmp.size()) + " OpenMP run-times are loaded, " +
                            Join(loaded.openmp) +
                            ", expected one: a limit on the threads of one is unknown to the other",
                        "unset LD_PRELOAD; if they stay, LD_DEBUG=files pqcache doctor 2>&1 | grep "
                        "needed says which library brings which"});
  }
  return problems;
}

double MeasureGflopsPerCore() {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kSize = 768;
  const SingleThreadScope single_thread;
  const std::vector<float> a(kSize * kSize, 0.5f), b(kSize * kSize, 0.25f);
  std::vector<float> c(kSize * kSize);
  double best = 0;
  const auto start = Clock::now();
  // The first product also warms up; two are enough where they are slow.
  for (int round = 0;
       round < 2 || (round < 50 && Clock::now() - start < std::chrono::milliseconds(200));
       ++round) {
    const auto before = Clock::now();
    attention::GemmTransposedB(kSize, kSize, kSize, 1.0f, a.data(), kSize, b.data(), kSize,
                               c.data(), kSize);
    const double seconds = std::chrono::duration<double>(Clock::now() - before).count();
    best = std::max(best, 2e-9 * kSize * kSize * kSize / seconds);
  }
  return best;
}

std::optional<Problem> CheckBlasSpeed(double gflops_per_core, bool open_blas) {
  if (gflops_per_core >= kLeastGflopsPerCore) return std::nullopt;
  const std::string what = "matrix products run at " + std::to_string(gflops_per_core) +
                           " GFLOP/s per core, expected at least " +
                           std::to_string(static_cast<int>(kLeastGflopsPerCore)) + ": ";
  if (open_blas) {
    return Problem{what + "the cores are busy or slow", "end other programs and run this again"};
  }
  return Problem{what + "the reference BLAS is loaded", kInstallOpenBlas};
}

std::string ReadProc(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

CpuInfo FindCpu(std::string_view cpuinfo) {
  CpuInfo cpu;
  cpu.name = FindValue(cpuinfo, "model name").value_or("");
  const std::string flags = " " + FindValue(cpuinfo, "flags").value_or("") + " ";
  for (const char* name :
       {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8"}) {
    (Contains(flags, " " + std::string(name) + " ") ? cpu.present : cpu.absent).push_back(name);
  }
  return cpu;
}

std::optional<int64_t> FindMemory(std::string_view meminfo, std::string_view name) {
  const std::optional<std::string> value = FindValue(meminfo, name);
  if (!value.has_value()) return std::nullopt;
  const Result<int64_t> kibibytes = ParseCount(value->substr(0, value->find(' ')), name);
  return kibibytes.ok() ? std::optional(*kibibytes * 1024) : std::nullopt;
}

ModelCheck CheckModel(const std::string& dir) {
  ModelCheck check;
  check.facts.Set("directory", dir);
  if (!std::filesystem::is_directory(dir)) {
    check.problems.push_back({dir + ": is no directory, expected one with a model's files",
                              "give the directory with the model's config.json to -m"});
    return check;
  }
  const auto note = [&](const Status& status, const std::string& fix) {
    if (!status.ok()) check.problems.push_back({status.message(), fix});
    return status.ok();
  };
  const Result<attention::ModelSpec> spec = attention::LoadModelSpec(dir);
  if (note(spec.status(), "put the config.json of a supported model into " + dir)) {
    check.facts.Set("family", spec->family).Set("layers", spec->layers);
    check.facts.Set("heads", spec->heads).Set("kv_heads", spec->kv_heads);
    check.facts.Set("head_dim", spec->head_dim).Set("max_positions", spec->max_positions);
  }
  const std::string again = "copy the checkpoint's files into " + dir + " again";
  const Result<attention::Checkpoint> checkpoint = attention::Checkpoint::Open(dir);
  if (note(checkpoint.status(), again)) {
    check.facts.Set("tensors", checkpoint->tensors().size());
    if (spec.ok()) note(attention::CheckWeights(*spec, *checkpoint), again);
  }
  if (spec.ok() && checkpoint.ok()) {
    const Result<Fingerprint> fingerprint = attention::ModelFingerprint(*spec, *checkpoint);
    if (note(fingerprint.status(), again)) {
      check.fingerprint = *fingerprint;
      check.facts.Set("fingerprint", fingerprint->Hex());
    }
  }
  const Result<attention::Tokenizer> tokenizer = LoadTokenizer(dir);
  if (note(tokenizer.status(), "copy the model's tokenizer.json into " + dir +
                                   "; without it only --prompt-tokens can be used")) {
    check.facts.Set("tokens", tokenizer->vocab_size());
    if (spec.ok() && tokenizer->vocab_size() > spec->vocab) {
      check.problems.push_back({"tokenizer has " + std::to_string(tokenizer->vocab_size()) +
                                    " tokens, expected at most the model's " +
                                    std::to_string(spec->vocab),
                                "copy the tokenizer.json of this very model into " + dir});
    }
  }
  return check;
}

ModelCheck CheckCodebooks(const std::string& path, const std::optional<Fingerprint>& fingerprint,
                          const std::string& model_dir) {
  ModelCheck check;
  check.facts.Set("file", path);
  const auto set = LoadCodebooks(path);
  const bool absent = set.status().code() == StatusCode::kNotFound;
  const std::string train = "pqcache train -m " + model_dir + " -o " + (absent ? path : "NEW.pqcb");
  if (!set.ok()) {
    check.problems.push_back(
        {set.status().message(), train + "; pqcache inspect " + path + " says what is left of it"});
    return check;
  }
  check.fingerprint = (*set)->model;
  check.facts.Set("model", (*set)->model.Hex()).Set("pq", (*set)->shape().Name());
  if (fingerprint.has_value() && *fingerprint != (*set)->model) {
    check.problems.push_back({path + ": is of the model " + (*set)->model.Hex() + ", expected " +
                                  fingerprint->Hex() + ", the one in " + model_dir,
                              train});
  }
  return check;
}

}  // namespace pqcache::tools
