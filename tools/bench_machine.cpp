#include "tools/bench_machine.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "pqcache/base/aligned_buffer.h"
#include "pqcache/base/checksum.h"
#include "pqcache/base/random.h"
#include "tools/doctor_checks.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

constexpr int kRepeats = 5;
constexpr size_t kCopyBytes = size_t{64} << 20;
constexpr size_t kFlushBytes = size_t{192} << 20;  // of all threads: beyond most caches
constexpr size_t kReadBytes = size_t{512} << 20;
constexpr int64_t kRowsAhead = 32;
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

// The loop that loads and does nothing else. Wide sums, so that the loads are what takes time.
uint64_t SumOf(const uint64_t* x, size_t n) {
  uint64_t sum[32] = {};
  size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    for (size_t lane = 0; lane < 32; ++lane) sum[lane] += x[i + lane];
  }
  for (; i < n; ++i) sum[0] += x[i];
  for (size_t lane = 1; lane < 32; ++lane) sum[0] += sum[lane];
  return sum[0];
}

// One in 50 rows of the thread's part.
std::vector<int64_t> RandomRows(int64_t first, int64_t end, uint64_t seed) {
  Random random(seed);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < (end - first) / 50; ++i) {
    rows.push_back(first + static_cast<int64_t>(random.Below(static_cast<uint64_t>(end - first))));
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace

ReadCeilings MeasureReadCeilings(ThreadPool* pool, int64_t row_bytes) {
  AlignedBuffer<uint64_t> memory(kReadBytes / 8);
  std::fill_n(memory.data(), memory.size(), 1);
  const int64_t threads = pool->threads();
  const int64_t part = static_cast<int64_t>(memory.size()) / threads;
  std::atomic<uint64_t> sink{0};  // keeps the reads from being left out
  ReadCeilings ceilings;
  ceilings.sequential_gb_per_second = BestRate(static_cast<double>(kReadBytes), [&] {
    pool->Run(threads, [&](int64_t i) {
      sink = SumOf(memory.data() + i * part, static_cast<size_t>(part));
    });
  });
  const int64_t words = row_bytes / 8;
  std::vector<std::vector<int64_t>> rows;
  int64_t read = 0;
  for (int64_t i = 0; i < threads; ++i) {
    rows.push_back(RandomRows(i * part / words, (i + 1) * part / words, static_cast<uint64_t>(i)));
    read += static_cast<int64_t>(rows.back().size());
  }
  CacheFlush flush(pool->threads());
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    flush.Run(pool);
    const Stopwatch watch;
    pool->Run(threads, [&](int64_t i) {
      const std::vector<int64_t>& list = rows[static_cast<size_t>(i)];
      uint64_t sum = 0;
      for (size_t at = 0; at < list.size(); ++at) {
        const size_t ahead = std::min(list.size() - 1, at + kRowsAhead);
        const auto* next = reinterpret_cast<const char*>(memory.data() + list[ahead] * words);
        for (int64_t byte = 0; byte < row_bytes; byte += 64) __builtin_prefetch(next + byte, 0, 2);
        sum += SumOf(memory.data() + list[at] * words, static_cast<size_t>(words));
      }
      sink = sum;
    });
    const double rate = static_cast<double>(read * row_bytes) / watch.seconds() / 1e9;
    ceilings.random_gb_per_second = std::max(ceilings.random_gb_per_second, rate);
  }
  return ceilings;
}

CacheFlush::CacheFlush(int threads) {
  for (int i = 0; i < threads; ++i)
    memory_.emplace_back(kFlushBytes / 8 / static_cast<size_t>(threads), 1);
}

void CacheFlush::Run(ThreadPool* pool) {
  std::atomic<uint64_t> sink{0};
  pool->Run(static_cast<int64_t>(memory_.size()), [&](int64_t i) {
    const std::vector<uint64_t>& part = memory_[static_cast<size_t>(i)];
    sink = SumOf(part.data(), part.size());
  });
}

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
