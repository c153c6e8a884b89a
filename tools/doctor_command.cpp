// pqcache doctor: what this build runs on, what is wrong with it, and how to mend that.

#include <cstdio>
#include <thread>

#include "attention/kernels/device_info.h"
#include "attention/torch/threads.h"
#include "pqcache/base/version.h"
#include "storage/rocksdb_call.h"
#include "tools/commands.h"
#include "tools/doctor_checks.h"
#include "train/kmeans.h"

namespace pqcache::tools {
namespace {

#if defined(__clang__)
constexpr char kCompiler[] = "clang " __clang_version__;
#else
constexpr char kCompiler[] = "g++ " __VERSION__;
#endif

Json List(const std::vector<std::string>& texts) {
  Json list = Json::Array();
  for (const std::string& text : texts) list.Push(text);
  return list;
}

std::string Words(const std::vector<std::string>& texts) {
  std::string words;
  for (const std::string& text : texts) words += (words.empty() ? "" : ", ") + text;
  return words.empty() ? "none" : words;
}

std::string GiB(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f GiB", static_cast<double>(bytes) / (1 << 30));
  return text;
}

class DoctorCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    flags->Text("-m,--model", &model_, "also check this Hugging Face directory");
    flags->Text("--codebooks", &codebooks_, "and this codebook file for it");
  }

  Status Prepare() override {
    if (!codebooks_.empty() && model_.empty()) {
      return Status::InvalidArgument("--codebooks needs --model DIR, the model they are for");
    }
    return Status::Ok();
  }

  Result<Report> Run(bool) override {
    AddVersions();
    AddLibraries();
    AddMachine();
    AddGpus();
    if (!model_.empty()) AddModel();
    Json list = Json::Array();
    for (const Problem& problem : problems_) {
      Json entry;
      list.Push(std::move(entry.Set("what", problem.what).Set("fix", problem.fix)));
      report_.text += "\nPROBLEM: " + problem.what + "\n  to mend it: " + problem.fix + "\n";
    }
    report_.passed = problems_.empty();
    if (report_.passed) report_.text += "no problems found\n";
    report_.json.Set("ok", report_.passed).Set("problems", std::move(list));
    return std::move(report_);
  }

 private:
  void Line(const std::string& name, const std::string& value) {
    report_.text += name + std::string(name.size() < 10 ? 10 - name.size() : 1, ' ') + value + "\n";
  }

  void AddProblems(std::vector<Problem> problems) {
    for (Problem& problem : problems) problems_.push_back(std::move(problem));
  }

  void AddVersions() {
    Json versions;
    versions.Set("pqcache", kVersion).Set("compiler", kCompiler);
    versions.Set("libtorch", attention::TorchVersion()).Set("faiss", train::FaissVersion());
    versions.Set("rocksdb", storage::RocksDbVersion());
    Line("pqcache", std::string(kVersion) + ", " + kCompiler);
    Line("libraries", "libtorch " + attention::TorchVersion() + ", FAISS " + train::FaissVersion() +
                          ", RocksDB " + storage::RocksDbVersion());
    report_.json.Set("versions", std::move(versions));
  }

  void AddLibraries() {
    const attention::BlasInfo blas = attention::DescribeBlas();
    const LoadedLibraries loaded = FindLibraries(ReadProc("/proc/self/maps"));
    const double gflops = MeasureGflopsPerCore();
    AddProblems(CheckLibraries(loaded, blas));
    if (auto problem = CheckBlasSpeed(gflops, IsOpenBlas(blas, loaded))) {
      problems_.push_back(std::move(*problem));
    }
    char speed[64];
    std::snprintf(speed, sizeof(speed), "%.1f GFLOP/s per core", gflops);
    Line("BLAS", blas.library);
    if (!blas.config.empty()) Line("", blas.config);
    Line("", speed);
    Line("OpenMP", Words(loaded.openmp));
    Json json;
    json.Set("library", blas.library).Set("openblas", blas.config.empty() ? Json() : blas.config);
    json.Set("gflops_per_core", gflops).Set("loaded", List(loaded.blas));
    report_.json.Set("blas", std::move(json)).Set("openmp", List(loaded.openmp));
  }

  void AddMachine() {
    const CpuInfo cpu = FindCpu(ReadProc("/proc/cpuinfo"));
    const std::string meminfo = ReadProc("/proc/meminfo");
    const int64_t total = FindMemory(meminfo, "MemTotal").value_or(0);
    const int64_t available = FindMemory(meminfo, "MemAvailable").value_or(0);
    const int64_t cores = std::thread::hardware_concurrency();
    Line("CPU", std::to_string(cores) + " cores, " + cpu.name);
    Line("", "has " + Words(cpu.present) + "; without " + Words(cpu.absent));
    Line("memory", GiB(total) + ", " + GiB(available) + " of it available");
    Json json, features;
    for (const std::string& name : cpu.present) features.Set(name, true);
    for (const std::string& name : cpu.absent) features.Set(name, false);
    json.Set("name", cpu.name).Set("cores", cores).Set("features", std::move(features));
    report_.json.Set("cpu", std::move(json));
    Json memory;
    memory.Set("total_bytes", total).Set("available_bytes", available);
    report_.json.Set("memory", std::move(memory));
  }

  void AddGpus() {
    Json json, devices = Json::Array();
    const auto gpus = attention::ListGpus();
    if (!attention::HasCuda()) {
      Line("GPU", gpus.status().message());
    } else if (!gpus.ok()) {
      problems_.push_back({gpus.status().message(),
                           "install NVIDIA's driver for this GPU; "
                           "nvidia-smi must list it"});
    } else if (gpus->empty()) {
      Line("GPU", "none");
    }
    if (gpus.ok()) {
      for (const attention::GpuInfo& gpu : *gpus) {
        const std::string capability =
            std::to_string(gpu.compute_major) + "." + std::to_string(gpu.compute_minor);
        Line("GPU", gpu.name + ", compute capability " + capability + ", " +
                        GiB(static_cast<int64_t>(gpu.memory_bytes)));
        Json device;
        device.Set("name", gpu.name).Set("compute_capability", capability);
        devices.Push(std::move(device.Set("memory_bytes", size_t{gpu.memory_bytes})));
      }
    }
    json.Set("cuda", attention::HasCuda()).Set("devices", std::move(devices));
    report_.json.Set("gpu", std::move(json));
  }

  void AddModel() {
    ModelCheck model = CheckModel(model_);
    Line("model", model_ + (model.fingerprint ? ", fingerprint " + model.fingerprint->Hex() : ""));
    AddProblems(std::move(model.problems));
    report_.json.Set("model", std::move(model.facts));
    if (codebooks_.empty()) return;
    ModelCheck books = CheckCodebooks(codebooks_, model.fingerprint, model_);
    Line("codebooks", codebooks_ + (books.fingerprint ? ", for " + books.fingerprint->Hex() : ""));
    AddProblems(std::move(books.problems));
    report_.json.Set("codebooks", std::move(books.facts));
  }

  std::string model_, codebooks_;
  Report report_;
  std::vector<Problem> problems_;
};

}  // namespace

std::unique_ptr<Command> CreateDoctorCommand() { return std::make_unique<DoctorCommand>(); }

}  // namespace pqcache::tools
