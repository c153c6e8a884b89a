#include "tools/eval/prediction_log.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>

#include "pqcache/base/file_io.h"
#include "pqcache/base/log.h"

namespace pqcache::tools {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 32;
constexpr std::string_view kMetricsFile = "/metrics.json", kHelmFolder = "/helm";

bool Exists(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0;
}

// Numbers stay of the kind that they are: a request's 0.0 is not 0 to who looks it up by its text.
std::string LineOf(const Json& json) { return json.Dump(-1, Json::Doubles::kWithPoint) + "\n"; }

// TASK-CTX-POLICY-BUDGET.jsonl: requests that were answered under the same conditions.
std::string FileName(const SampleKey& key) {
  std::string name = key.task + "-" + std::to_string(key.ctx) + "-" + key.policy;
  if (key.budget >= 0) name += "-" + Json(key.budget).Dump();
  for (char& c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_';
    if (!plain) c = '_';
  }
  return name + ".jsonl";
}

Status MakeFolder(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0755) == 0 || errno == EEXIST) return Status::Ok();
  return Status::IoError(folder + ": cannot make the folder: " + std::strerror(errno));
}

// What a finished run wrote beside its lines: it must not be taken for that of the run that begins.
Status RemoveSummaries(const std::string& folder) {
  for (const std::string_view name : {kMetricsFile, kHelmFolder}) {
    const std::string path = folder + std::string(name);
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) return Status::IoError(path + ": cannot be removed: " + error.message());
  }
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<PredictionLog>> PredictionLog::Open(const std::string& folder,
                                                           const Json& config, bool overwrite) {
  std::unique_ptr<PredictionLog> log(new PredictionLog(folder));
  if (folder.empty()) return log;
  PQCACHE_RETURN_IF_ERROR(MakeFolder(folder));
  const std::string config_path = folder + "/config.json", path = folder + "/predictions.jsonl";
  const std::string text = config.Dump(1) + "\n";
  if (Exists(config_path) && !overwrite) PQCACHE_RETURN_IF_ERROR(log->ReadLines(path));
  if (!log->results_.empty()) {
    PQCACHE_ASSIGN_OR_RETURN(const std::string found, ReadFile(config_path, kMostBytes));
    PQCACHE_ASSIGN_OR_RETURN(const Json before, Json::Parse(found));
    for (const auto& [key, value] : config.AsObject()) {
      const Json* member = before.Find(key);
      const std::string theirs = member == nullptr ? "absent" : member->Dump();
      if (theirs == value.Dump()) continue;
      return Status::InvalidArgument(folder + " holds results of another run: its " + key + " is " +
                                     theirs + ", of this one " + value.Dump() +
                                     "; expected a new folder, or --overwrite");
    }
    Log(LogLevel::kWarning,
        "going on behind " + std::to_string(log->results_.size()) + " results in " + path);
  }
  if (overwrite) PQCACHE_RETURN_IF_ERROR(RemoveSummaries(folder));
  // What was read is written anew: a cut line goes.
  std::string lines;
  for (const SampleResult& result : log->results_) lines += LineOf(result.ToJson());
  PQCACHE_RETURN_IF_ERROR(WriteFileAtomically(path, lines));
  PQCACHE_RETURN_IF_ERROR(WriteFileAtomically(config_path, text));
  log->file_.reset(std::fopen(path.c_str(), "ae"));
  if (log->file_ == nullptr) return Status::IoError(path + ": " + std::strerror(errno));
  return log;
}

Status PredictionLog::ReadLines(const std::string& path) {
  if (!Exists(path)) return Status::Ok();
  PQCACHE_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMostBytes));
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) return Status::Ok();
    ++number;
    const std::string name = path + ", line " + std::to_string(number);
    Result<Json> json = Json::Parse(std::string_view(text).substr(begin, end - begin));
    PQCACHE_RETURN_IF_ERROR(json.status().Annotate(name));
    Result<SampleResult> result = SampleResult::FromJson(*json);
    PQCACHE_RETURN_IF_ERROR(result.status().Annotate(name));
    results_.push_back(*std::move(result));
    begin = end + 1;
  }
  return Status::Ok();
}

bool PredictionLog::Has(const SampleKey& key) const {
  return std::any_of(results_.begin(), results_.end(),
                     [&](const SampleResult& result) { return result.key == key; });
}

Status PredictionLog::Add(SampleResult result) {
  if (file_ != nullptr) {
    const std::string line = LineOf(result.ToJson());
    const bool written = std::fwrite(line.data(), 1, line.size(), file_.get()) == line.size();
    if (!written || std::fflush(file_.get()) != 0) {
      return Status::IoError(folder_ + "/predictions.jsonl: " + std::strerror(errno));
    }
  }
  results_.push_back(std::move(result));
  return Status::Ok();
}

Status PredictionLog::Finish(const Json& metrics) const {
  if (folder_.empty()) return Status::Ok();
  std::map<std::string, std::string> helm;
  for (const SampleResult& result : results_) {
    if (result.source.is_null()) continue;
    helm[FileName(result.key)] += LineOf(HelmLine(result));
  }
  const std::string folder = folder_ + std::string(kHelmFolder);
  if (!helm.empty()) PQCACHE_RETURN_IF_ERROR(MakeFolder(folder));
  for (const auto& [name, lines] : helm) {
    PQCACHE_RETURN_IF_ERROR(WriteFileAtomically(folder + "/" + name, lines));
  }
  return WriteFileAtomically(folder_ + std::string(kMetricsFile), metrics.Dump(1) + "\n");
}

}  // namespace pqcache::tools
