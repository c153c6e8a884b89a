// pqcache context save: computes a text once and keeps it in a store.

#include <optional>

#include "attention/decoder/session.h"
#include "pqcache/base/log.h"
#include "pqcache/cache/context_catalog.h"
#include "tools/commands.h"
#include "tools/context_verbs.h"
#include "tools/model_flags.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

class ContextSaveCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    flags->Positional("name", &names_, "name of the context");
    model_.Declare(flags);
    attention_.DeclareStorage(flags);
    flags->Text("-p,--prompt", &prompt_, "text of the context");
    flags->Text("-f,--file", &file_, "file with the text of the context");
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(CheckOneName(names_));
    PQCACHE_RETURN_IF_ERROR(model_.Prepare());
    PQCACHE_RETURN_IF_ERROR(attention_.Prepare());
    PQCACHE_RETURN_IF_ERROR(storage::CheckDurable(attention_.store));
    if (prompt_.empty() == file_.empty()) {
      return Status::InvalidArgument("expected exactly one text: --prompt TEXT or --file FILE");
    }
    return Status::Ok();
  }

  Result<Report> Run(bool) override {
    PQCACHE_ASSIGN_OR_RETURN(const auto store,
                             OpenStore(attention_.store, storage::OpenMode::kMakeIfMissing));
    catalog_.emplace(store.get(), TenantOf(attention_.cache_salt));
    const Status present = catalog_->Find(name()).status();
    if (present.code() != StatusCode::kNotFound) return present.ok() ? Taken() : present;
    PQCACHE_ASSIGN_OR_RETURN(const Model model, LoadModel(model_));
    PQCACHE_ASSIGN_OR_RETURN(const auto tokens, ReadTokens(*model.decoder));
    PQCACHE_ASSIGN_OR_RETURN(attention::SessionStorage kept,
                             attention_.StorageFor({attention::ExactAttention()}, store.get()));
    kept.value_sums = true;
    if (attention_.codebooks.empty()) {
      Log(LogLevel::kWarning,
          "without --codebooks the context is kept without codes: policies that score codes "
          "cannot use it");
    } else {
      PQCACHE_ASSIGN_OR_RETURN(kept.codebooks, LoadCodebooks(attention_.codebooks));
    }
    return Compute(*model.decoder, kept, tokens);
  }

 private:
  const std::string& name() const { return names_[0]; }

  Result<std::vector<int64_t>> ReadTokens(const attention::Decoder& decoder) {
    PQCACHE_ASSIGN_OR_RETURN(const attention::Tokenizer tokenizer, LoadTokenizer(model_.model));
    if (!file_.empty()) {
      PQCACHE_ASSIGN_OR_RETURN(prompt_, ReadText(file_));
    }
    PQCACHE_ASSIGN_OR_RETURN(std::vector<int64_t> tokens, tokenizer.Encode(prompt_, true));
    const int64_t limit = decoder.spec().max_positions;
    if (!tokens.empty() && static_cast<int64_t>(tokens.size()) < limit) return tokens;
    return Status::InvalidArgument(
        (file_.empty() ? std::string("the text") : file_) + ": has " +
        std::to_string(tokens.size()) + " tokens, expected 1 to " + std::to_string(limit - 1) +
        ", which leaves one of the model's " + std::to_string(limit) + " positions to a question");
  }

  // Begins with the longest stored prefix; the rest is computed.
  Result<Report> Compute(const attention::Decoder& decoder, const attention::SessionStorage& kept,
                         const std::vector<int64_t>& tokens) {
    const Stopwatch start;
    PQCACHE_ASSIGN_OR_RETURN(
        std::optional<StoredPrefix> prefix,
        FindPrefix(attention::Session::IdentityFor(decoder, kept), kept.codebooks.get(), tokens));
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
    PQCACHE_ASSIGN_OR_RETURN(const bool published, session->Save(name(), tokens));
    if (!published) return Taken();
    PQCACHE_ASSIGN_OR_RETURN(const ContextManifest manifest, catalog_->Find(name()));
    Report report;
    report.json = DescribeContext(manifest);
    report.json.Set("damaged", 0).Set("cached_tokens", cached).Set("prefill_ms", prefill_ms);
    report.json.Set("save_ms", start.milliseconds() - prefill_ms);
    ReportFit(FitOf(session->cache()), &report.json);
    report.text = ContextLine(manifest);
    return report;
  }

  Result<std::optional<StoredPrefix>> FindPrefix(const ContextIdentity& identity,
                                                 const CodebookSet* codebooks,
                                                 const std::vector<int64_t>& tokens) const {
    std::optional<StoredCodes> codes;
    if (codebooks != nullptr) codes = StoredCodesOf(codebooks);
    PQCACHE_ASSIGN_OR_RETURN(
        std::optional<StoredPrefix> prefix,
        catalog_->Match(identity, codes, tokens, static_cast<int64_t>(tokens.size())));
    if (!prefix.has_value()) return prefix;
    // What is published must be whole.
    PQCACHE_ASSIGN_OR_RETURN(const ContextCheck check, catalog_->Verify(prefix->manifest));
    if (check.problems.empty()) return prefix;
    Log(LogLevel::kWarning,
        "stored context " + prefix->manifest.name + " is not reused: " + check.problems[0]);
    return std::optional<StoredPrefix>();
  }

  Status Taken() const {
    return Status::InvalidArgument("there is a stored context '" + name() +
                                   "' already; 'context rm' removes it");
  }

  std::vector<std::string> names_;
  ModelFlags model_;
  AttentionFlags attention_;
  std::string prompt_, file_;
  std::optional<ContextCatalog> catalog_;
};

}  // namespace

std::unique_ptr<Command> CreateContextSaveCommand() {
  return std::make_unique<ContextSaveCommand>();
}

}  // namespace pqcache::tools
