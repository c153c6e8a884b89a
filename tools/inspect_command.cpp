// pqcache inspect: what is in a file or folder that the project wrote, and where it is damaged.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "pqcache/base/file_io.h"
#include "pqcache/cache/page_codec.h"
#include "pqcache/index/codebook_file_info.h"
#include "storage/store_folder.h"
#include "storage/store_scan.h"
#include "tools/commands.h"

namespace pqcache::tools {
namespace {

constexpr char kKnown[] =
    "expected a codebook file (it begins with PQCBOOK1), a page (it begins with PQPAGE) or the "
    "folder of a page store (it has a file PQCACHE_STORE)";
// The largest page there can be, with room for bytes behind its end.
constexpr uint64_t kMaxPageBytes = uint64_t{1} << 28;

// What is printed of one path.
struct Finding {
  Json json;
  std::string text;
  bool damaged = false;
};

std::string Hex64(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

void AddDamage(const std::vector<FileDamage>& damaged, Finding* finding) {
  Json list = Json::Array();
  for (const FileDamage& damage : damaged) {
    Json entry;
    entry.Set("part", damage.part);
    if (!damage.file.empty()) entry.Set("file", damage.file);
    entry.Set("offset", damage.offset ? Json(size_t{*damage.offset}) : Json());
    list.Push(std::move(entry.Set("what", damage.what)));
    finding->text += "  DAMAGED: " + damage.part;
    if (!damage.file.empty()) finding->text += ", file " + damage.file;
    if (damage.offset) finding->text += ", offset " + std::to_string(*damage.offset);
    finding->text += ": " + damage.what + "\n";
  }
  finding->damaged = !damaged.empty();
  finding->json.Set("damaged", std::move(list));
  if (damaged.empty()) finding->text += "  no damage\n";
}

// How well the codebooks did on held-out text, from the training report.
void AddJudgement(const std::string& report_text, Finding* finding) {
  const Result<Json> report = Json::Parse(report_text);
  const Json* judged = report.ok() ? report->Find("judged") : nullptr;
  if (judged == nullptr) return;
  Json summary;
  const Result<int64_t> tokens = judged->IntOr("tokens", 0);
  summary.Set("tokens", tokens.ok() ? *tokens : 0);
  finding->text += "  on text not trained on:";
  const char* separator = " ";
  for (const char* name :
       {"recall_at_100", "recall_in_400", "mass_at_2pct", "relative_mse", "residual_growth"}) {
    Result<double> values[2] = {Status::NotFound(name), Status::NotFound(name)};
    for (int i = 0; i < 2; ++i) {
      if (const Json* group = judged->Find(i == 0 ? "mean" : "worst")) {
        values[i] = group->GetDouble(name);
      }
    }
    if (!values[0].ok() || !values[1].ok()) continue;
    Json pair;
    summary.Set(name, std::move(pair.Set("mean", *values[0]).Set("worst", *values[1])));
    char text[96];
    std::snprintf(text, sizeof(text), "%s%s %.3f (worst head %.3f)", separator, name, *values[0],
                  *values[1]);
    finding->text += text;
    separator = ", ";
  }
  finding->text += "\n";
  finding->json.Set("judged", std::move(summary));
}

void AddBlocks(const CodebookFileInfo& info, Finding* finding) {
  Json list = Json::Array();
  for (const CodebookBlockInfo& block : info.blocks) {
    Json entry;
    entry.Set("layer", block.layer).Set("kv_head", block.kv_head);
    entry.Set("offset", size_t{block.offset}).Set("checksum", Hex64(block.checksum));
    list.Push(std::move(entry.Set("damaged", block.damaged)));
    char line[128];
    std::snprintf(line, sizeof(line), "  layer %4d  head %4d  offset %10llu  checksum %s  %s\n",
                  block.layer, block.kv_head, static_cast<unsigned long long>(block.offset),
                  Hex64(block.checksum).c_str(), block.damaged ? "DAMAGED" : "ok");
    finding->text += line;
  }
  finding->json.Set("blocks", std::move(list));
}

Result<Finding> InspectCodebooks(const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(const CodebookFileInfo info, InspectCodebookFile(path));
  Finding finding;
  Json& j = finding.json;
  j.Set("kind", "codebooks").Set("version", int64_t{info.version});
  j.Set("bytes", size_t{info.file_bytes});
  finding.text = path + ": codebooks, version " + std::to_string(info.version) + ", " +
                 std::to_string(info.file_bytes) + " bytes\n";
  if (info.described) {
    j.Set("model", info.model.Hex()).Set("layers", info.layers).Set("kv_heads", info.kv_heads);
    j.Set("head_dim", info.shape.dim).Set("pq", info.shape.Name());
    j.Set("bytes_per_key", info.shape.bytes_per_key()).Set("rotation", info.rotation);
    j.Set("position_mean", info.position_mean);
    j.Set("block_bytes", size_t{info.block_bytes});
    finding.text += "  for the model " + info.model.Hex() + "\n  " + std::to_string(info.layers) +
                    " layers x " + std::to_string(info.kv_heads) + " KV heads of size " +
                    std::to_string(info.shape.dim) + ", " + info.shape.Name() + " codes, " +
                    std::to_string(info.shape.bytes_per_key()) + " bytes a key, rotation " +
                    info.rotation + (info.position_mean ? ", position means" : "") + "\n";
    AddJudgement(info.report, &finding);
    AddBlocks(info, &finding);
  }
  AddDamage(info.damaged, &finding);
  return finding;
}

Json ContextJson(const ContextId& id) {
  Json json;
  json.Set("tenant", id.tenant.Hex()).Set("model", id.model.Hex());
  return json.Set("context", id.context.Hex());
}

Result<Finding> InspectPage(const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMaxPageBytes));
  const std::span<const uint8_t> page = {reinterpret_cast<const uint8_t*>(bytes.data()),
                                         bytes.size()};
  Finding finding;
  finding.text = path + ": page, " + std::to_string(bytes.size()) + " bytes\n";
  const Result<PageHeader> header = DecodePageHeader(page);
  Json& j = finding.json;
  if (header.ok()) {
    const PageHeader& h = *header;
    const char* layout = h.shape.layout == PageLayout::kKeyValue ? "keys and values" : "values";
    j = ContextJson(h.key.context);
    j.Set("layer", h.key.layer).Set("kv_head", h.key.head).Set("page", h.key.page);
    j.Set("first_token", h.first_token).Set("tokens", h.tokens);
    j.Set("page_tokens", h.shape.page_tokens).Set("head_dim", h.shape.dim);
    j.Set("dtype", DTypeName(h.shape.dtype)).Set("layout", layout);
    j.Set("checksum", Hex64(h.checksum));
    finding.text += "  page " + std::to_string(h.key.page) + " of layer " +
                    std::to_string(h.key.layer) + " head " + std::to_string(h.key.head) +
                    ": tokens " + std::to_string(h.first_token) + " to " +
                    std::to_string(h.first_token + h.tokens - 1) + ", " + layout + " of size " +
                    std::to_string(h.shape.dim) + ", " + std::string(DTypeName(h.shape.dtype)) +
                    "\n  context " + h.key.context.context.Hex() + ", model " +
                    h.key.context.model.Hex() + ", tenant " + h.key.context.tenant.Hex() + "\n";
  }
  j.Set("kind", "page").Set("version", int64_t{kPageVersion}).Set("bytes", bytes.size());
  std::vector<FileDamage> damaged;
  if (const Status status = DecodePage(page).status(); !status.ok()) {
    damaged.push_back({header.ok() ? "page" : "page header", "", 0, status.message()});
  }
  AddDamage(damaged, &finding);
  return finding;
}

Result<Finding> InspectStore(const std::string& path) {
  PQCACHE_ASSIGN_OR_RETURN(const storage::StoreScan scan, storage::ScanStoreFolder(path));
  Finding finding;
  Json contexts = Json::Array();
  finding.text = path + ": page store, " + std::to_string(scan.contexts.size()) + " contexts, " +
                 std::to_string(scan.pages) + " pages, " + std::to_string(scan.bytes) +
                 " bytes; damaged: " + std::to_string(scan.damaged_pages) + " pages, " +
                 std::to_string(scan.damaged.size()) + " places in all\n";
  for (const storage::StoredContext& context : scan.contexts) {
    Json entry = ContextJson(context.id);
    entry.Set("tokens", context.tokens).Set("pages", context.pages);
    entry.Set("bytes", size_t{context.bytes}).Set("layers", context.layers);
    contexts.Push(std::move(entry.Set("kv_heads", context.heads)));
    finding.text += "  context " + context.id.context.Hex() + ": " +
                    std::to_string(context.tokens) + " tokens, " + std::to_string(context.layers) +
                    " layers x " + std::to_string(context.heads) + " KV heads, " +
                    std::to_string(context.pages) + " pages, " + std::to_string(context.bytes) +
                    " bytes\n    of model " + context.id.model.Hex() + ", tenant " +
                    context.id.tenant.Hex() + "\n";
  }
  Json manifests = Json::Array();
  for (const ContextManifest& m : scan.manifests) {
    Json entry = ContextJson(m.id());
    entry.Set("name", m.name).Set("tokens", m.tokens);
    manifests.Push(std::move(entry));
    finding.text += "  stored context " + m.name + ": " + std::to_string(m.tokens) +
                    " tokens, its own pages are those of context " + m.context.Hex() + "\n";
  }
  finding.json.Set("manifests", std::move(manifests));
  finding.json.Set("kind", "store").Set("version", storage::kStoreVersion);
  finding.json.Set("pages", scan.pages).Set("bytes", size_t{scan.bytes});
  finding.json.Set("contexts", std::move(contexts)).Set("damaged_pages", scan.damaged_pages);
  AddDamage(scan.damaged, &finding);
  return finding;
}

// By content; names do not matter.
Result<Finding> InspectPath(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return Status::NotFound(path + ": is not there");
  if (std::filesystem::is_directory(status)) {
    if (std::filesystem::exists(path + "/" + storage::kFolderMarker, error)) {
      return InspectStore(path);
    }
    return Status::Unsupported(path + ": is a folder of something else, " + kKnown);
  }
  if (!std::filesystem::is_regular_file(status)) {
    return Status::Unsupported(path + ": is neither a file nor a folder, " + kKnown);
  }
  std::ifstream file(path, std::ios::binary);
  std::string start(std::max(kCodebookMagic.size(), kPageMagic.size()), '\0');
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  if (file.bad() || !file.is_open()) return Status::IoError(path + ": cannot be read");
  start.resize(static_cast<size_t>(file.gcount()));
  if (start.starts_with(kCodebookMagic)) return InspectCodebooks(path);
  if (start.starts_with(kPageMagic)) return InspectPage(path);
  return Status::Unsupported(path + ": is no file of this project, " + kKnown);
}

class InspectCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    flags->Positional("path", &paths_, "codebook files, pages, folders of stores");
  }
  Status Prepare() override {
    if (!paths_.empty()) return Status::Ok();
    return Status::InvalidArgument("no path is given, expected one or more files or folders");
  }
  Result<Report> Run(bool) override {
    Report report;
    Json files = Json::Array();
    for (const std::string& path : paths_) {
      Result<Finding> finding = InspectPath(path);
      if (!finding.ok() && paths_.size() == 1) return finding.status();
      Json entry;
      entry.Set("path", path);
      if (!finding.ok()) {
        entry.Set("kind", Json()).Set("error", finding.status().message());
        report.text += finding.status().message() + "\n";
        report.passed = false;
      } else {
        for (const auto& [key, value] : finding->json.AsObject()) entry.Set(key, value);
        report.text += finding->text;
        report.passed = report.passed && !finding->damaged;
      }
      files.Push(std::move(entry));
    }
    report.json.Set("ok", report.passed).Set("files", std::move(files));
    return report;
  }

 private:
  std::vector<std::string> paths_;
};

}  // namespace

std::unique_ptr<Command> CreateInspectCommand() { return std::make_unique<InspectCommand>(); }

}  // namespace pqcache::tools
