// pqcache context: contexts that are computed once and kept in a store.

#include <ctime>
#include <optional>

#include "attention/decoder/session.h"
#include "pqcache/base/log.h"
#include "pqcache/cache/context_catalog.h"
#include "pqcache/cache/stored_pages.h"
#include "tools/commands.h"
#include "tools/model_flags.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

Json Describe(const ContextManifest& m) {
  Json j;
  j.Set("name", m.name).Set("tokens", m.tokens).Set("bytes", static_cast<int64_t>(m.bytes));
  j.Set("pages", StoredPageCount(m)).Set("model", m.identity.model.Hex());
  j.Set("dtype", DTypeName(m.identity.page.dtype)).Set("layers", m.identity.layers);
  j.Set("kv_heads", m.identity.kv_heads).Set("page_tokens", m.identity.page.page_tokens);
  j.Set("codebooks", m.codes.codebooks.Hex()).Set("bytes_per_key", m.codes.bytes_per_key);
  return j.Set("created", m.created);
}

std::string Line(const ContextManifest& m) {
  char when[32] = "";
  const std::time_t created = static_cast<std::time_t>(m.created);
  struct tm utc;
  if (::gmtime_r(&created, &utc) != nullptr) {
    std::strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &utc);
  }
  return m.name + "  " + std::to_string(m.tokens) + " tokens  " + std::to_string(m.bytes) +
         " bytes  " + std::to_string(StoredPageCount(m)) + " pages  " + when + " UTC\n";
}

class ContextCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    flags->Positional("verb", &words_, "save NAME, list, show NAME, verify [NAME] or rm NAME");
    model_.Declare(flags);
    attention_.Declare(flags);
    flags->Text("-p,--prompt", &prompt_, "save: text of the context");
    flags->Text("-f,--file", &file_, "save: file with the text of the context");
  }

  Status Prepare() override {
    const std::string verb = words_.empty() ? "" : words_[0];
    const bool known =
        verb == "save" || verb == "list" || verb == "show" || verb == "verify" || verb == "rm";
    if (!known || words_.size() > 2) {
      return Status::InvalidArgument("found '" + verb + "' and " + std::to_string(words_.size()) +
                                     " words, expected save NAME, list, show NAME, verify [NAME] "
                                     "or rm NAME");
    }
    const bool named = words_.size() == 2;
    if (named == (verb == "list") && !(verb == "verify")) {
      return Status::InvalidArgument("context " + verb + ": expected " +
                                     (named ? "no name" : "a name"));
    }
    if (named) PQCACHE_RETURN_IF_ERROR(CheckContextName(words_[1]));
    PQCACHE_RETURN_IF_ERROR(attention_.Prepare());
    if (verb != "save") return Status::Ok();
    PQCACHE_RETURN_IF_ERROR(model_.Prepare());
    if (prompt_.empty() == file_.empty()) {
      return Status::InvalidArgument("expected exactly one text: --prompt TEXT or --file FILE");
    }
    return Status::Ok();
  }

  Result<Report> Run(bool) override {
    PQCACHE_ASSIGN_OR_RETURN(store_, OpenStore(attention_.store));
    catalog_.emplace(store_.get(), TenantOf(attention_.cache_salt));
    if (words_[0] == "save") return Save();
    if (words_[0] == "list") return List();
    if (words_[0] == "show") return Show();
    if (words_[0] == "verify") return Verify();
    return Remove();
  }

 private:
  Result<Report> Save() {
    const std::string& name = words_[1];
    const Status present = catalog_->Find(name).status();
    if (present.code() != StatusCode::kNotFound) {
      return present.ok() ? Taken() : present;
    }
    PQCACHE_ASSIGN_OR_RETURN(const Model model, LoadModel(model_));
    PQCACHE_ASSIGN_OR_RETURN(const attention::Tokenizer tokenizer, LoadTokenizer(model_.model));
    if (!file_.empty()) {
      PQCACHE_ASSIGN_OR_RETURN(prompt_, ReadText(file_));
    }
    PQCACHE_ASSIGN_OR_RETURN(const std::vector<int64_t> tokens, tokenizer.Encode(prompt_, true));
    attention::CacheAttentionOptions exact = attention::ExactAttention();
    PQCACHE_ASSIGN_OR_RETURN(attention::SessionStorage kept,
                             attention_.StorageFor({exact}, store_.get()));
    kept.value_sums = true;
    if (!attention_.codebooks.empty()) {
      PQCACHE_ASSIGN_OR_RETURN(kept.codebooks, LoadCodebooks(attention_.codebooks));
    }
    return Compute(*model.decoder, kept, tokens);
  }

  // Begins with the longest stored prefix; the rest is computed.
  Result<Report> Compute(const attention::Decoder& decoder, const attention::SessionStorage& kept,
                         const std::vector<int64_t>& tokens) {
    const Stopwatch start;
    std::optional<StoredCodes> codes;
    if (kept.codebooks != nullptr) codes = StoredCodesOf(kept.codebooks.get());
    PQCACHE_ASSIGN_OR_RETURN(std::optional<StoredPrefix> prefix,
                             catalog_->Match(attention::Session::IdentityFor(decoder, kept), codes,
                                             tokens, static_cast<int64_t>(tokens.size())));
    if (prefix.has_value()) {
      // What is published must be whole.
      PQCACHE_ASSIGN_OR_RETURN(const ContextCheck check, catalog_->Verify(prefix->manifest));
      if (!check.problems.empty()) {
        Log(LogLevel::kWarning,
            "stored context " + prefix->manifest.name + " is not reused: " + check.problems[0]);
        prefix = std::nullopt;
      }
    }
    const auto cached = static_cast<size_t>(prefix.has_value() ? prefix->tokens : 0);
    PQCACHE_ASSIGN_OR_RETURN(
        const auto session,
        attention::Session::Create(&decoder, kept, attention::ExactAttention(), std::move(prefix)));
    std::vector<float> logits;
    {
      ProgressBar bar("prefill");
      PQCACHE_RETURN_IF_ERROR(session->Prefill(std::span(tokens).subspan(cached), 0, &logits,
                                               [&](double done) { bar.Update(done); }));
    }
    const double prefill_ms = start.milliseconds();
    PQCACHE_ASSIGN_OR_RETURN(const bool published, session->Save(words_[1], tokens));
    if (!published) return Taken();
    PQCACHE_ASSIGN_OR_RETURN(const ContextManifest manifest, catalog_->Find(words_[1]));
    Report report;
    report.json = Describe(manifest);
    report.json.Set("damaged", 0).Set("cached_tokens", cached).Set("prefill_ms", prefill_ms);
    report.json.Set("save_ms", start.milliseconds() - prefill_ms);
    report.text = Line(manifest);
    return report;
  }

  Status Taken() const {
    return Status::InvalidArgument("there is a stored context '" + words_[1] +
                                   "' already; 'context rm' removes it");
  }

  Result<Report> List() {
    PQCACHE_ASSIGN_OR_RETURN(const CatalogListing listing, catalog_->List());
    Report report;
    Json contexts = Json::Array(), damaged = Json::Array();
    for (const ContextManifest& m : listing.contexts) {
      contexts.Push(Describe(m));
      report.text += Line(m);
    }
    for (const std::string& problem : listing.damaged) {
      damaged.Push(problem);
      report.text += "DAMAGED: " + problem + "\n";
    }
    report.passed = listing.damaged.empty();
    report.json.Set("contexts", std::move(contexts)).Set("damaged", std::move(damaged));
    return report;
  }

  Result<Report> Show() {
    PQCACHE_ASSIGN_OR_RETURN(const ContextManifest m, catalog_->Find(words_[1]));
    Report report;
    report.json = Describe(m);
    Json owners = Json::Array();
    for (const PageOwner& owner : m.owners) {
      Json entry;
      entry.Set("end", owner.end).Set("context", owner.context.context.Hex());
      owners.Push(std::move(entry));
    }
    report.json.Set("owners", std::move(owners));
    report.text = Line(m) + report.json.Dump(1) + "\n";
    return report;
  }

  Result<Report> Verify() {
    Report report;
    std::vector<ContextManifest> manifests;
    if (words_.size() == 2) {
      PQCACHE_ASSIGN_OR_RETURN(ContextManifest m, catalog_->Find(words_[1]));
      manifests.push_back(std::move(m));
    } else {
      PQCACHE_ASSIGN_OR_RETURN(CatalogListing listing, catalog_->List());
      manifests = std::move(listing.contexts);
      for (const std::string& problem : listing.damaged) report.text += problem + "\n";
      report.passed = listing.damaged.empty();
    }
    Json contexts = Json::Array();
    for (const ContextManifest& m : manifests) {
      PQCACHE_ASSIGN_OR_RETURN(const ContextCheck check, catalog_->Verify(m));
      Json entry = Describe(m);
      entry.Set("damaged", check.damaged).Set("missing", check.missing);
      contexts.Push(std::move(entry));
      report.passed = report.passed && check.damaged + check.missing == 0;
      report.text += m.name + "  " + std::to_string(check.pages) + " pages, " +
                     std::to_string(check.damaged) + " damaged, " + std::to_string(check.missing) +
                     " missing\n";
      for (const std::string& problem : check.problems) report.text += "  " + problem + "\n";
    }
    if (words_.size() == 2) {
      report.json = contexts.AsArray()[0];
    } else {
      report.json.Set("contexts", std::move(contexts));
    }
    report.json.Set("ok", report.passed);
    return report;
  }

  Result<Report> Remove() {
    PQCACHE_RETURN_IF_ERROR(catalog_->Remove(words_[1]));
    Report report;
    report.json.Set("name", words_[1]).Set("removed", true);
    report.text = words_[1] + " removed\n";
    return report;
  }

  std::vector<std::string> words_;
  ModelFlags model_;
  AttentionFlags attention_;
  std::string prompt_, file_;
  std::unique_ptr<PageStore> store_;
  std::optional<ContextCatalog> catalog_;
};

}  // namespace

std::unique_ptr<Command> CreateContextCommand() { return std::make_unique<ContextCommand>(); }

}  // namespace pqcache::tools
