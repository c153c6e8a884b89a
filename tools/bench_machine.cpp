#include "tools/bench_machine.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "pqcache/base/checksum.h"
#include "tools/doctor_checks.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

constexpr int kRepeats = 5;
constexpr size_t kCopyBytes = size_t{64} << 20;
constexpr size_t kHashedBytes = 8192, kHashes = 4096;

double BestRate(double bytes, const auto& work) {
  double best = 0;
  for (int i = 0; i < kRepeats; ++i) {
    const Stopwatch watch;
    work();
    best = std::max(best, bytes / watch.seconds() / 1e9);
  }
  return best;
}

}  // namespace

MachineCeilings MeasureCeilings() {
  std::vector<uint8_t> from(kCopyBytes, 1), to(kCopyBytes, 2);
  MachineCeilings ceilings;
  ceilings.copy_gb_per_second = BestRate(static_cast<double>(kCopyBytes),
                                         [&] { std::memcpy(to.data(), from.data(), kCopyBytes); });
  volatile uint64_t sink = 0;  // keeps the hashes from being left out
  ceilings.checksum_gb_per_second = BestRate(static_cast<double>(kHashedBytes * kHashes), [&] {
    uint64_t sum = 0;
    for (size_t i = 0; i < kHashes; ++i) {
      from[i % kHashedBytes] = static_cast<uint8_t>(i);
      sum += Checksum64(from.data(), kHashedBytes);
    }
    sink = sum;
  });
  return ceilings;
}

Json DescribeMachine(const MachineCeilings& ceilings) {
  Json json;
  json.Set("cpu", FindCpu(ReadProc("/proc/cpuinfo")).name);
  json.Set("cores", static_cast<int64_t>(std::thread::hardware_concurrency()));
  json.Set("copy_gb_per_second", ceilings.copy_gb_per_second);
  json.Set("checksum_gb_per_second", ceilings.checksum_gb_per_second);
  return json;
}

}  // namespace pqcache::tools
