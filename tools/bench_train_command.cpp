// pqcache bench train: k-means for all KV heads of a model, this project's trainer beside FAISS'.
// Keys are random: no structure helps either of them.

#include <algorithm>
#include <cstdio>

#include "pqcache/base/random.h"
#include "tools/bench_machine.h"
#include "tools/commands.h"
#include "tools/model_flags.h"
#include "tools/stopwatch.h"
#include "train/kmeans.h"

namespace pqcache::tools {
namespace {

constexpr int64_t kKeySets = 4;  // heads take them in turns, with seeds of their own

class BenchTrainCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    flags->Count("-t,--threads", &threads_, "threads (0: one per core)");
    flags->Count("--seed", &seed_, "seed of everything random");
    flags->Count("--heads", &heads_, "KV heads of all layers, each with an index of its own");
    flags->Count("--sample", &sample_,
                 "of them, trained with FAISS, too; rounded up to whole turns of the threads");
    flags->Count("--keys", &keys_, "sampled keys of a head");
    flags->Count("--dim", &dim_, "head size");
    flags->Text("--pq", &pq_, "sub-spaces x bits");
    flags->Count("--iterations", &iterations_, "k-means iterations");
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(CheckRange("--threads", threads_, 0, 1024));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--heads", heads_, 1, 1 << 20));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--sample", sample_, 1, heads_));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--keys", keys_, 1, 1 << 24));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--dim", dim_, 1, 4096));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--iterations", iterations_, 1, 1000));
    PQCACHE_ASSIGN_OR_RETURN(shape_, PqShape::Parse(pq_, static_cast<int>(dim_)));
    return Status::Ok();
  }

  Result<Report> Run(bool) override {
    ThreadPool pool(ThreadsOf(threads_));
    // So many that no thread is idle.
    const int64_t threads = pool.threads();
    sample_ = std::min(heads_, (sample_ + threads - 1) / threads * threads);
    MakeKeys();
    PQCACHE_ASSIGN_OR_RETURN(const Measured faiss, Train("faiss", sample_, &pool));
    PQCACHE_ASSIGN_OR_RETURN(const Measured own, Train("own", heads_, &pool));
    Report report;
    report.json.Set("machine", DescribeMachine(MeasureCeilings()));
    Json rows = Json::Array();
    Describe("own", heads_, own, faiss, pool.threads(), &rows, &report.text);
    Describe("faiss", sample_, faiss, faiss, pool.threads(), &rows, &report.text);
    report.json.Set("rows", std::move(rows));
    return report;
  }

 private:
  struct Measured {
    double seconds = 0;  // of all heads
    double error = 0;    // mean over the sampled heads
  };

  void MakeKeys() {
    Random random(static_cast<uint64_t>(seed_));
    for (int64_t i = 0; i < std::min(kKeySets, heads_); ++i) {
      std::vector<float> keys(static_cast<size_t>(keys_ * dim_));
      for (float& x : keys) x = random.Normal();
      key_sets_.push_back(std::move(keys));
    }
  }

  train::KMeansProblem ProblemOf(int64_t head) const {
    return {.shape = shape_,
            .rows = keys_,
            .keys = key_sets_[static_cast<size_t>(head) % key_sets_.size()].data(),
            .iterations = static_cast<int>(iterations_),
            .seed = MixSeed(static_cast<uint64_t>(seed_), static_cast<uint64_t>(head))};
  }

  Result<Measured> Train(const char* trainer, int64_t heads, ThreadPool* pool) const {
    std::vector<std::vector<float>> sampled(static_cast<size_t>(sample_));
    const Stopwatch watch;
    PQCACHE_RETURN_IF_ERROR(pool->RunChecked(heads, [&](int64_t h) -> Status {
      PQCACHE_ASSIGN_OR_RETURN(auto centroids, train::TrainKMeans(trainer, ProblemOf(h)));
      if (h < sample_) sampled[static_cast<size_t>(h)] = std::move(centroids);
      return Status::Ok();
    }));
    Measured measured{watch.seconds(), 0};
    for (int64_t h = 0; h < sample_; ++h) {
      measured.error += train::QuantizationError(ProblemOf(h), sampled[static_cast<size_t>(h)]) /
                        static_cast<double>(sample_);
    }
    return measured;
  }

  void Describe(const char* name, int64_t heads, const Measured& m, const Measured& faiss,
                int threads, Json* rows, std::string* text) const {
    const double each = m.seconds / static_cast<double>(heads);
    const double faiss_each = faiss.seconds / static_cast<double>(sample_);
    Json row;
    row.Set("name", name).Set("heads", heads).Set("threads", threads);
    row.Set("seconds", m.seconds).Set("seconds_a_head", each);
    row.Set("error", m.error).Set("error_over_faiss", m.error / faiss.error);
    row.Set("ratio_to_faiss", faiss_each / each);
    rows->Push(std::move(row));
    char line[200];
    std::snprintf(
        line, sizeof(line),
        "%-6s %5lld heads %8.2f s, %6.3f s a head  %5.2f x as fast as faiss  error %.5f (%.4f of "
        "faiss)\n",
        name, static_cast<long long>(heads), m.seconds, each, faiss_each / each, m.error,
        m.error / faiss.error);
    *text += line;
  }

  int64_t threads_ = 0, seed_ = 0, heads_ = 32, sample_ = 4, keys_ = 10000, dim_ = 128,
          iterations_ = 25;
  std::string pq_ = "16x8";
  PqShape shape_;
  std::vector<std::vector<float>> key_sets_;
};

}  // namespace

std::unique_ptr<Command> CreateBenchTrainCommand() { return std::make_unique<BenchTrainCommand>(); }

}  // namespace pqcache::tools
