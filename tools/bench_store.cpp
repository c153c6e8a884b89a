#include "tools/bench_store.h"

#include <algorithm>
#include <cstdio>
#include <functional>

#include "attention/decoder/session.h"
#include "pqcache/base/random.h"
#include "pqcache/base/thread_pool.h"
#include "storage/rocksdb_page_store.h"
#include "tools/medians.h"
#include "tools/plain_files.h"
#include "tools/scratch_folder.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

// What is measured in turn.
struct Side {
  std::function<Status(std::span<const PageWrite>)> put;
  std::function<Status()> sync;
  std::function<void(std::span<PageRead>)> read;
};

struct Times {
  std::vector<double> seconds;  // by round
  double bytes = 0;             // of a round
  void Add(double round_bytes, double round_seconds) {
    bytes = round_bytes;
    seconds.push_back(round_seconds);
  }
};

class StoreBench {
 public:
  explicit StoreBench(const StoreBenchOptions& options)
      : o_(options),
        pages_((options.tokens + options.page.page_tokens - 1) / options.page.page_tokens),
        pool_(options.threads) {}

  Status Run() {
    MakeRows();
    for (int round = 0; round < o_.rounds; ++round) PQCACHE_RETURN_IF_ERROR(RunRound(round));
    return Status::Ok();
  }

  void Describe(Json* rows, std::string* text) const {
    AddRate("write", 1, write_, rows, text);
    AddRate("read_scattered", 1, scattered_, rows, text);
    AddRate("read_ordered", 1, ordered_, rows, text);
    if (pool_.threads() > 1) {
      AddRate("read_scattered", pool_.threads(), scattered_in_parallel_, rows, text);
    }
    for (int side = 0; side < 2; ++side) AddLatency(side, rows, text);
  }

 private:
  static constexpr int kBatches = 200, kSingles = 2000;
  static constexpr const char* kNames[2] = {"files", "rocksdb"};

  // Random numbers: what is written must not be all alike.
  void MakeRows() {
    Random random(o_.seed);
    rows_.resize(o_.page.row_bytes() * static_cast<size_t>(o_.page.page_tokens) + kShifts);
    for (uint8_t& byte : rows_) byte = static_cast<uint8_t>(random.Next());
    page_bytes_ = kPageHeaderBytes + rows_.size() - kShifts;
    key_.context.context = FingerprintOf("bench");
  }

  Status RunRound(int round) {
    PQCACHE_ASSIGN_OR_RETURN(const auto scratch, ScratchFolder::Make(o_.folder));
    PlainFiles files(scratch->path());
    PQCACHE_ASSIGN_OR_RETURN(const auto store, storage::RocksDbPageStore::Open(
                                                   scratch->path() + "/rocksdb", /*env=*/nullptr));
    const Side sides[2] = {
        {[&](auto pages) { return files.Put(pages); }, [&] { return files.Sync(); },
         [&](auto pages) { files.Read(pages); }},
        {[&](auto pages) { return store->Put(pages); }, [&] { return store->Sync(); },
         [&](auto pages) { store->Read(pages); }}};
    const std::vector<Batch> scattered = ScatteredBatches(), ordered = OrderedBatches();
    // Whoever comes first alternates.
    for (int i = 0; i < 2; ++i) {
      const int side = (i + round) % 2;
      PQCACHE_RETURN_IF_ERROR(Write(sides[side], &write_[side]));
    }
    for (int i = 0; i < 2; ++i) {
      const int side = (i + round) % 2;
      const Side& s = sides[side];
      PQCACHE_RETURN_IF_ERROR(ReadBatches(s, scattered, 1, &scattered_[side]));
      PQCACHE_RETURN_IF_ERROR(
          ReadBatches(s, scattered, pool_.threads(), &scattered_in_parallel_[side]));
      PQCACHE_RETURN_IF_ERROR(ReadBatches(s, ordered, 1, &ordered_[side]));
      PQCACHE_RETURN_IF_ERROR(ReadSingles(s, &single_[side]));
    }
    return Status::Ok();
  }

  // A context from rows to disk: header and checksum of every page, batches as prefill puts them,
  // sync.
  Status Write(const Side& side, Times* times) {
    const Stopwatch watch;
    const int64_t chunk =
        std::max<int64_t>(1, attention::Session::kChunkTokens / o_.page.page_tokens);
    for (int64_t first = 0; first < pages_; first += chunk) {
      for (int layer = 0; layer < o_.layers; ++layer) {
        PQCACHE_RETURN_IF_ERROR(side.put(PagesOf(layer, first, std::min(pages_, first + chunk))));
      }
    }
    PQCACHE_RETURN_IF_ERROR(side.sync());
    times->Add(
        static_cast<double>(page_bytes_) * static_cast<double>(pages_) * o_.layers * o_.kv_heads,
        watch.seconds());
    return Status::Ok();
  }

  std::vector<PageWrite> PagesOf(int layer, int64_t begin, int64_t end) const {
    std::vector<PageWrite> batch;
    for (int head = 0; head < o_.kv_heads; ++head) {
      for (int64_t page = begin; page < end; ++page) {
        const PageKey key = KeyOf(layer, head, page);
        const auto rows =
            std::span(rows_).subspan(static_cast<size_t>(page) % kShifts, rows_.size() - kShifts);
        batch.push_back({key, EncodePage(key, o_.page, o_.page.page_tokens, rows)});
      }
    }
    return batch;
  }

  // One read: pages of every head of a layer, ascending.
  struct Batch {
    int layer = 0;
    std::vector<int64_t> pages;
  };

  // As decode steps want them: anywhere.
  std::vector<Batch> ScatteredBatches() const {
    Random random(o_.seed);
    std::vector<Batch> batches(kBatches);
    for (int i = 0; i < kBatches; ++i) {
      Batch& batch = batches[static_cast<size_t>(i)];
      batch.layer = i % o_.layers;
      for (int j = 0; j < o_.batch / o_.kv_heads; ++j) {
        batch.pages.push_back(static_cast<int64_t>(random.Below(static_cast<uint64_t>(pages_))));
      }
      std::sort(batch.pages.begin(), batch.pages.end());
    }
    return batches;
  }

  // As a prefill behind a stored context wants them: everything, in order.
  std::vector<Batch> OrderedBatches() const {
    std::vector<Batch> batches;
    for (int layer = 0; layer < o_.layers; ++layer) {
      for (int64_t page = 0; page < pages_; ++page) {
        if (page % (o_.batch / o_.kv_heads) == 0) batches.push_back({layer, {}});
        batches.back().pages.push_back(page);
      }
    }
    return batches;
  }

  // A batch is split over the threads by heads. The first pass warms up.
  Status ReadBatches(const Side& side, std::span<const Batch> batches, int threads, Times* times) {
    const int64_t parts = std::min(threads, o_.kv_heads);
    for (int pass = 0; pass < 2; ++pass) {
      double bytes = 0;
      const Stopwatch watch;
      for (const Batch& batch : batches) {
        std::vector<PageRead> reads;
        for (int head = 0; head < o_.kv_heads; ++head) {
          for (int64_t page : batch.pages) {
            reads.push_back({KeyOf(batch.layer, head, page), nullptr, Status::Ok()});
          }
        }
        const auto read_part = [&](int64_t part) {
          const auto first = static_cast<size_t>(part * o_.kv_heads / parts) * batch.pages.size();
          const auto last =
              static_cast<size_t>((part + 1) * o_.kv_heads / parts) * batch.pages.size();
          side.read(std::span(reads).subspan(first, last - first));
        };
        if (parts == 1) {
          read_part(0);
        } else {
          pool_.Run(parts, read_part);
        }
        for (const PageRead& read : reads) PQCACHE_RETURN_IF_ERROR(read.status);
        bytes += static_cast<double>(reads.size() * page_bytes_);
      }
      if (pass == 1) times->Add(bytes, watch.seconds());
    }
    return Status::Ok();
  }

  Status ReadSingles(const Side& side, std::vector<double>* microseconds) {
    Random random(MixSeed(o_.seed, 1));
    for (int i = 0; i < kSingles; ++i) {
      PageRead read{KeyOf(static_cast<int>(random.Below(static_cast<uint64_t>(o_.layers))),
                          static_cast<int>(random.Below(static_cast<uint64_t>(o_.kv_heads))),
                          static_cast<int64_t>(random.Below(static_cast<uint64_t>(pages_)))),
                    nullptr, Status::Ok()};
      const Stopwatch watch;
      side.read({&read, 1});
      microseconds->push_back(1e6 * watch.seconds());
      PQCACHE_RETURN_IF_ERROR(read.status);
    }
    return Status::Ok();
  }

  PageKey KeyOf(int layer, int head, int64_t page) const {
    PageKey key = key_;
    key.layer = layer;
    key.head = head;
    key.page = page;
    return key;
  }

  void AddRate(const char* name, int threads, const Times (&times)[2], Json* rows,
               std::string* text) const {
    std::vector<double> ratios;  // of rounds, so that both sides saw the same disk
    for (size_t i = 0; i < times[0].seconds.size(); ++i) {
      ratios.push_back(times[0].seconds[i] / times[1].seconds[i]);
    }
    for (int side = 0; side < 2; ++side) {
      const double median = Median(times[side].seconds);
      const double ratio = side == 0 ? 1.0 : Median(ratios);
      Json row;
      row.Set("name", name).Set("store", kNames[side]).Set("ctx", o_.tokens);
      row.Set("threads", threads);
      row.Set("ms", 1000 * median);
      row.Set("mb_per_second", times[side].bytes / median / 1e6).Set("ratio_to_files", ratio);
      if (&times[0] != &write_[0]) {  // the disk's limit is what the files reach
        row.Set("share_of_byte_limit",
                ByteLimit(times[side].bytes) / std::min(threads, o_.kv_heads) / median);
      }
      rows->Push(std::move(row));
      char line[128];
      std::snprintf(line, sizeof(line), "%-14s %-8s %d thread%s %8.0f MB/s  %5.2f of files\n", name,
                    kNames[side], threads, threads == 1 ? " " : "s",
                    times[side].bytes / median / 1e6, ratio);
      *text += line;
    }
  }

  // Seconds in which one core copies and checks so much: what no read from the page cache can beat.
  double ByteLimit(double bytes) const {
    return bytes / 1e9 *
           (1 / o_.ceilings.copy_gb_per_second + 1 / o_.ceilings.checksum_gb_per_second);
  }

  void AddLatency(int side, Json* rows, std::string* text) const {
    const double p50 = Percentile(single_[side], 0.5), p95 = Percentile(single_[side], 0.95),
                 p99 = Percentile(single_[side], 0.99);
    Json row;
    row.Set("name", "read_one").Set("store", kNames[side]).Set("ctx", o_.tokens);
    row.Set("p50_us", p50).Set("p95_us", p95).Set("p99_us", p99);
    rows->Push(std::move(row));
    char line[128];
    std::snprintf(line, sizeof(line), "%-14s %-8s p50 %.1f us, p95 %.1f us, p99 %.1f us\n",
                  "read_one", kNames[side], p50, p95, p99);
    *text += line;
  }

  // Pages begin at so many different bytes of the same random rows.
  static constexpr size_t kShifts = 64;

  const StoreBenchOptions o_;
  const int64_t pages_;  // of one head
  size_t page_bytes_ = 0;
  PageKey key_;
  std::vector<uint8_t> rows_;
  ThreadPool pool_;
  Times write_[2], scattered_[2], scattered_in_parallel_[2], ordered_[2];  // by side
  std::vector<double> single_[2];                                          // microseconds, by side
};

}  // namespace

Status BenchStore(const StoreBenchOptions& options, Json* rows, std::string* text) {
  StoreBench bench(options);
  PQCACHE_RETURN_IF_ERROR(bench.Run());
  bench.Describe(rows, text);
  return Status::Ok();
}

}  // namespace pqcache::tools
