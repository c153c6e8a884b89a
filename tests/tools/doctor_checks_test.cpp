#include "tools/doctor_checks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "attention/blas_info.h"
#include "attention/kernels/device_info.h"
#include "attention/torch/threads.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/version.h"
#include "pqcache/index/codebook.h"
#include "storage/rocksdb_call.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/tools/fake_flags.h"
#include "tools/commands.h"
#include "train/kmeans.h"

namespace pqcache::tools {
namespace {

using namespace pqcache::testing;
namespace fs = std::filesystem;

const std::string kSource = PQCACHE_SOURCE_DIR;
const std::string kModel = kSource + "/tests/fixtures/hf/llama_mha";

// Lines of /proc/self/maps that map these files.
std::string Maps(const std::vector<std::string>& paths) {
  std::string maps = "55d0c0a00000-55d0c0a9f000 r--p 00000000 fe:00 1234    /usr/bin/pqcache\n";
  for (const std::string& path : paths) {
    maps += "7f0000000000-7f0000001000 r--p 00000000 fe:00 99      " + path + "\n";
    maps += "7f0000001000-7f0000002000 r-xp 00001000 fe:00 99      " + path + "\n";
  }
  return maps + "7ffd12345000-7ffd12366000 rw-p 00000000 00:00 0          [stack]\n";
}

constexpr char kOpenMpFlavour[] = "/usr/lib/x86_64-linux-gnu/openblas-openmp/libblas.so.3";
constexpr char kPthreadFlavour[] = "/usr/lib/x86_64-linux-gnu/openblas-pthread/libblas.so.3";
constexpr char kReference[] = "/usr/lib/x86_64-linux-gnu/blas/libblas.so.3.11.0";
constexpr char kGomp[] = "/usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0";

std::vector<Problem> CheckMaps(const std::vector<std::string>& paths,
                               const attention::BlasInfo& blas = {}) {
  return CheckLibraries(FindLibraries(Maps(paths)), blas);
}

TEST(BetterBlasCore, IsNamedWhereOpenBlasDoesNotKnowTheCpu) {
  const auto better = [](const char* core, Isa isa) {
    const std::string config = std::string("OpenBLAS 0.3.21 DYNAMIC_ARCH USE_OPENMP ") + core;
    return attention::BetterBlasCore({.library = "", .config = config + " MAX_THREADS=64"}, isa);
  };
  EXPECT_EQ(better("Prescott", Isa::kAvx512Vbmi), "SkylakeX");
  EXPECT_EQ(better("Prescott", Isa::kAvx512), "SkylakeX");
  EXPECT_EQ(better("Nehalem", Isa::kAvx2), "Haswell");
  EXPECT_EQ(better("Prescott", Isa::kScalar), "");
  EXPECT_EQ(better("SkylakeX", Isa::kAvx512), "");
  EXPECT_EQ(better("Haswell", Isa::kAvx512), "");  // its own choice for some of them
  EXPECT_EQ(attention::BetterBlasCore({}, Isa::kAvx512), "");
}

TEST(DoctorLibraries, FindsEachFileOnce) {
  const LoadedLibraries loaded = FindLibraries(
      Maps({kGomp, kOpenMpFlavour, "/opt/my libs/libopenblas.so.0", "/usr/lib/libblasfeo.so.0",
            "/usr/lib/libompitrace.so.40", "/usr/lib/libgomp-plugin-nvptx.so.1",
            "/usr/lib/libomptarget.so.14", "/venv/torch/lib/libgomp-a34b3233.so.1"}));
  const std::vector<std::string> blas = {"/opt/my libs/libopenblas.so.0", kOpenMpFlavour};
  const std::vector<std::string> openmp = {kGomp, "/venv/torch/lib/libgomp-a34b3233.so.1"};
  EXPECT_EQ(loaded.blas, blas);
  EXPECT_EQ(loaded.openmp, openmp);
  EXPECT_TRUE(FindLibraries("").blas.empty());
}

TEST(DoctorLibraries, FindsNothingWrongWithOneOfEach) {
  EXPECT_TRUE(CheckMaps({kGomp, kOpenMpFlavour}).empty());
  EXPECT_TRUE(CheckMaps({kOpenMpFlavour}).empty());
  const attention::BlasInfo own = {"/opt/lib/libfast.so", "OpenBLAS 0.3.21 USE_OPENMP Haswell"};
  EXPECT_TRUE(CheckMaps({kGomp, kReference}, own).empty());
  const attention::BlasInfo serial = {"/opt/lib/libopenblas.so", "OpenBLAS SINGLE_THREADED"};
  EXPECT_TRUE(CheckMaps({kGomp}, serial).empty());
}

TEST(DoctorLibraries, MissesOpenBlas) {
  for (const auto& problems : {CheckMaps({kGomp, kReference}), CheckMaps({kGomp}),
                               // Loaded by another library, but not what sgemm comes from.
                               CheckMaps({kGomp, kReference, kOpenMpFlavour}, {kReference, ""})}) {
    ASSERT_EQ(problems.size(), 1u);
    EXPECT_NE(problems[0].what.find("expected OpenBLAS"), std::string::npos);
    EXPECT_NE(problems[0].fix.find("apt-get install libopenblas0-openmp"), std::string::npos);
  }
  EXPECT_NE(CheckMaps({kReference})[0].what.find(kReference), std::string::npos);
}

TEST(DoctorLibraries, RefusesOpenBlasWithItsOwnThreads) {
  for (const auto& problems :
       {CheckMaps({kGomp, kPthreadFlavour}),
        CheckMaps({kGomp},
                  {"/opt/libopenblas.so", "OpenBLAS 0.3.21 DYNAMIC_ARCH MAX_THREADS=64"})}) {
    ASSERT_EQ(problems.size(), 1u);
    EXPECT_NE(problems[0].what.find("pthread"), std::string::npos);
    EXPECT_NE(problems[0].fix.find("libopenblas0-openmp"), std::string::npos);
  }
}

TEST(DoctorLibraries, CountsOpenMpRunTimes) {
  for (const char* second : {"/usr/lib/llvm-14/lib/libiomp5.so", "/usr/lib/llvm-14/lib/libomp.so.5",
                             "/venv/torch.libs/libgomp-a34b3233.so.1"}) {
    const auto problems = CheckMaps({kGomp, kOpenMpFlavour, second});
    ASSERT_EQ(problems.size(), 1u) << second;
    EXPECT_NE(problems[0].what.find("2 OpenMP run-times"), std::string::npos);
    EXPECT_NE(problems[0].what.find(kGomp), std::string::npos);
    EXPECT_NE(problems[0].what.find(second), std::string::npos);
    EXPECT_FALSE(problems[0].fix.empty());
  }
}

TEST(DoctorSpeed, BlamesTheReferenceBlas) {
  EXPECT_FALSE(CheckBlasSpeed(20.0, false).has_value());
  EXPECT_FALSE(CheckBlasSpeed(150.0, true).has_value());
  const auto slow = CheckBlasSpeed(2.5, false);
  ASSERT_TRUE(slow.has_value());
  EXPECT_NE(slow->what.find("the reference BLAS is loaded"), std::string::npos);
  EXPECT_EQ(slow->fix, "apt-get install libopenblas0-openmp");
  const auto busy = CheckBlasSpeed(19.9, true);
  ASSERT_TRUE(busy.has_value());
  EXPECT_EQ(busy->what.find("reference"), std::string::npos);
}

TEST(DoctorMachine, ReadsProcFiles) {
  const CpuInfo cpu = FindCpu(
      "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx avx2 avx512f_x amx_tile\n"
      "\nprocessor\t: 1\nmodel name\t: Other\nflags\t\t: avx512f\n");
  EXPECT_EQ(cpu.name, "Some CPU @ 2 GHz");
  EXPECT_EQ(cpu.present, (std::vector<std::string>{"avx2", "amx_tile"}));
  EXPECT_EQ(cpu.absent, (std::vector<std::string>{"avx512f", "avx512_bf16", "avx512_vnni",
                                                  "amx_bf16", "amx_int8"}));
  EXPECT_EQ(FindCpu("").absent.size(), 7u);
  const char* meminfo = "MemTotal:       24000 kB\nMemFree:  12 kB\nMemAvailable:  x kB\n";
  EXPECT_EQ(FindMemory(meminfo, "MemTotal"), 24000 * 1024);
  EXPECT_EQ(FindMemory(meminfo, "MemFree"), 12 * 1024);
  EXPECT_EQ(FindMemory(meminfo, "MemAvailable"), std::nullopt);
  EXPECT_EQ(FindMemory(meminfo, "Mem"), std::nullopt);
}

TEST(DoctorVersions, AreThoseOfTheLibraries) {
  const Result<std::string> cmake = ReadFile(kSource + "/CMakeLists.txt", 1 << 20);
  ASSERT_OK(cmake);
  EXPECT_NE(cmake->find("project(pqcache VERSION " + std::string(kVersion) + " "),
            std::string::npos);
  for (const std::string& version :
       {attention::TorchVersion(), train::FaissVersion(), storage::RocksDbVersion()}) {
    EXPECT_GE(std::count(version.begin(), version.end(), '.'), 2) << version;
  }
}

// One layer of the fixture's shape does not matter here: only the fingerprint is compared.
void SaveCodebooksOf(const Fingerprint& model, const std::string& path) {
  CodebookSet set;
  set.model = model;
  set.rotation = "none";
  set.layers = set.kv_heads = 1;
  HeadCodebook::Parts parts;
  parts.shape = {.dim = 4, .subspaces = 2, .bits = 4};
  parts.centroids.resize(16 * 4);
  Result<HeadCodebook> head = HeadCodebook::Create(std::move(parts));
  ASSERT_OK(head);
  set.heads.push_back(*std::move(head));
  ASSERT_OK(SaveCodebooks(set, path));
}

TEST(DoctorModel, FindsEachPart) {
  const ModelCheck check = CheckModel(kModel);
  ASSERT_TRUE(check.fingerprint.has_value());
  ASSERT_EQ(check.problems.size(), 1u);  // the fixture has no tokenizer
  EXPECT_NE(check.problems[0].what.find("tokenizer.json"), std::string::npos);
  EXPECT_EQ(check.facts.GetString("fingerprint").value(), check.fingerprint->Hex());
  EXPECT_EQ(check.facts.GetString("family").value(), "llama");

  const ModelCheck absent = CheckModel(kModel + "/absent");
  ASSERT_EQ(absent.problems.size(), 1u);
  EXPECT_NE(absent.problems[0].what.find("no directory"), std::string::npos);
}

TEST(DoctorModel, FindsConfigAndWeightsThatDoNotFit) {
  const TempDir dir;
  fs::copy_file(kModel + "/model.safetensors", dir.File("model.safetensors"));
  fs::copy_file(kSource + "/tests/fixtures/hf/qwen3/config.json", dir.File("config.json"));
  fs::copy_file(kSource + "/tests/fixtures/tokenizers/llama3/tokenizer.json",
                dir.File("tokenizer.json"));
  const ModelCheck check = CheckModel(dir.path());
  ASSERT_EQ(check.problems.size(), 2u);
  EXPECT_NE(check.problems[0].what.find("missing"), std::string::npos) << check.problems[0].what;
  EXPECT_NE(check.problems[1].what.find("tokenizer has "), std::string::npos);
  EXPECT_TRUE(check.fingerprint.has_value());
  fs::resize_file(dir.File("model.safetensors"), 100);
  const ModelCheck cut = CheckModel(dir.path());
  EXPECT_FALSE(cut.fingerprint.has_value());
  EXPECT_NE(cut.problems[0].what.find("model.safetensors"), std::string::npos);
}

TEST(DoctorModel, RefusesCodebooksOfAnotherModelAndDamagedOnes) {
  const TempDir dir;
  const Fingerprint model = FingerprintOf("this"), other = FingerprintOf("that");
  const std::string path = dir.File("books.pqcb");
  SaveCodebooksOf(model, path);
  EXPECT_TRUE(CheckCodebooks(path, model, "DIR").problems.empty());
  EXPECT_TRUE(CheckCodebooks(path, std::nullopt, "DIR").problems.empty());
  const ModelCheck foreign = CheckCodebooks(path, other, "DIR");
  ASSERT_EQ(foreign.problems.size(), 1u);
  EXPECT_NE(foreign.problems[0].what.find("is of the model " + model.Hex()), std::string::npos);
  EXPECT_NE(foreign.problems[0].what.find(other.Hex()), std::string::npos);
  EXPECT_EQ(foreign.problems[0].fix, "pqcache train -m DIR -o NEW.pqcb");

  fs::resize_file(path, fs::file_size(path) - 1);
  const ModelCheck damaged = CheckCodebooks(path, model, "DIR");
  ASSERT_EQ(damaged.problems.size(), 1u);
  EXPECT_NE(damaged.problems[0].what.find(path), std::string::npos);
  EXPECT_NE(damaged.problems[0].fix.find("pqcache inspect " + path), std::string::npos);
}

TEST(DoctorCommand, ReportsFactsAndProblems) {
  const TempDir dir;
  SaveCodebooksOf(FingerprintOf("another"), dir.File("books.pqcb"));
  const auto command = CreateDoctorCommand();
  FakeFlags flags;
  command->Declare(&flags);
  flags.Set("--codebooks", dir.File("books.pqcb"));
  ExpectError(command->Prepare(), StatusCode::kInvalidArgument, "--model");
  flags.Set("-m,--model", kModel);
  ASSERT_OK(command->Prepare());
  const Result<Report> report = command->Run(true);
  ASSERT_OK(report);
  EXPECT_FALSE(report->passed);
  EXPECT_FALSE(report->json.GetBool("ok").value());
  const Json* problems = report->json.Find("problems");
  ASSERT_NE(problems, nullptr);
  EXPECT_GE(problems->AsArray().size(), 2u);
  for (const Json& problem : problems->AsArray()) {
    EXPECT_OK(problem.GetString("what"));
    EXPECT_OK(problem.GetString("fix"));
    EXPECT_NE(report->text.find(problem.GetString("what").value()), std::string::npos);
  }
  EXPECT_GT(report->json.Find("blas")->GetDouble("gflops_per_core").value(), 0);
  EXPECT_EQ(report->json.Find("gpu")->GetBool("cuda").value(), attention::HasCuda());
  EXPECT_GT(report->json.Find("memory")->GetInt("total_bytes").value(), 1 << 20);
  for (const char* key : {"versions", "openmp", "cpu", "model", "codebooks"}) {
    EXPECT_NE(report->json.Find(key), nullptr) << key;
  }
}

}  // namespace
}  // namespace pqcache::tools
