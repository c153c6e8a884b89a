// pqcache context list, show, verify, rm, repair: what is done to contexts that are stored.

#include <optional>

#include "pqcache/cache/context_catalog.h"
#include "storage/salvage.h"
#include "storage/stores.h"
#include "tools/commands.h"
#include "tools/context_verbs.h"
#include "tools/model_flags.h"

namespace pqcache::tools {
namespace {

Status CheckGivenStore(const std::string& spec) {
  if (!spec.empty()) return storage::CheckDurable(spec);
  return Status::InvalidArgument("--store is absent, expected the store of the contexts");
}

// Opens the store that is there, for one verb.
class ContextCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    DeclareName(flags);
    DeclareStoreFlags(flags, &store_spec_, &cache_salt_);
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(CheckNames());
    return CheckGivenStore(store_spec_);
  }

  Result<Report> Run(bool) override {
    PQCACHE_ASSIGN_OR_RETURN(store_, OpenStore(store_spec_, storage::OpenMode::kExisting));
    Result<Report> report = RunVerb(ContextCatalog(store_.get(), TenantOf(cache_salt_)));
    PQCACHE_RETURN_IF_ERROR(AdviseRepair(report.status(), store_spec_));
    return report;
  }

 protected:
  virtual void DeclareName(Flags* flags) {
    flags->Positional("name", &names_, "name of the context");
  }
  virtual Status CheckNames() const { return CheckOneName(names_); }
  virtual Result<Report> RunVerb(const ContextCatalog& catalog) = 0;

  std::vector<std::string> names_;
  std::string store_spec_, cache_salt_;

 private:
  std::unique_ptr<PageStore> store_;
};

// Adds the contexts that cannot be used.
void ReportDamaged(const CatalogListing& listing, Report* report) {
  for (const std::string& problem : listing.damaged) report->text += "DAMAGED: " + problem + "\n";
  report->passed = report->passed && listing.damaged.empty();
}

constexpr const char* kNoContexts = "no stored contexts of this --cache-salt\n";

Json Strings(const std::vector<std::string>& texts) {
  Json list = Json::Array();
  for (const std::string& text : texts) list.Push(text);
  return list;
}

class ListCommand : public ContextCommand {
  void DeclareName(Flags*) override {}
  Status CheckNames() const override { return Status::Ok(); }

  Result<Report> RunVerb(const ContextCatalog& catalog) override {
    PQCACHE_ASSIGN_OR_RETURN(const CatalogListing listing, catalog.List());
    Report report;
    Json contexts = Json::Array();
    for (const ContextManifest& m : listing.contexts) {
      contexts.Push(DescribeContext(m));
      report.text += ContextLine(m);
    }
    ReportDamaged(listing, &report);
    if (report.text.empty()) report.text = kNoContexts;
    report.json.Set("contexts", std::move(contexts)).Set("damaged", Strings(listing.damaged));
    return report;
  }
};

class ShowCommand : public ContextCommand {
  Result<Report> RunVerb(const ContextCatalog& catalog) override {
    PQCACHE_ASSIGN_OR_RETURN(const ContextManifest m, catalog.Find(names_[0]));
    Report report;
    report.json = DescribeContext(m);
    Json owners = Json::Array();
    for (const PageOwner& owner : m.owners) {
      Json entry;
      entry.Set("end", owner.end).Set("context", owner.context.context.Hex());
      owners.Push(std::move(entry));
    }
    report.json.Set("owners", std::move(owners));
    report.text = ContextLine(m) + report.json.Dump(1) + "\n";
    return report;
  }
};

class VerifyCommand : public ContextCommand {
  void DeclareName(Flags* flags) override {
    flags->Positional("name", &names_, "name of the context; none: all contexts");
  }

  Status CheckNames() const override {
    return names_.empty() ? Status::Ok() : CheckOneName(names_);
  }

  Result<Report> RunVerb(const ContextCatalog& catalog) override {
    Report report;
    CatalogListing listing;
    if (names_.empty()) {
      PQCACHE_ASSIGN_OR_RETURN(listing, catalog.List());
      ReportDamaged(listing, &report);
    } else {
      PQCACHE_ASSIGN_OR_RETURN(ContextManifest m, catalog.Find(names_[0]));
      listing.contexts.push_back(std::move(m));
    }
    Json contexts = Json::Array();
    for (const ContextManifest& m : listing.contexts) {
      PQCACHE_ASSIGN_OR_RETURN(const ContextCheck check, catalog.Verify(m));
      Json entry = DescribeContext(m);
      entry.Set("damaged", check.damaged).Set("missing", check.missing);
      entry.Set("problems", Strings(check.problems));
      contexts.Push(std::move(entry));
      AddText(m, check, &report);
    }
    if (report.text.empty()) report.text = kNoContexts;
    if (names_.empty()) {
      report.json.Set("contexts", std::move(contexts));
      report.json.Set("damaged_manifests", Strings(listing.damaged));
    } else {
      report.json = contexts.AsArray()[0];
    }
    report.json.Set("ok", report.passed);
    return report;
  }

  static void AddText(const ContextManifest& m, const ContextCheck& check, Report* report) {
    const int64_t found = check.damaged + check.missing;
    report->text += m.name + "  " + std::to_string(check.pages) + " pages, " +
                    std::to_string(check.damaged) + " damaged, " + std::to_string(check.missing) +
                    " missing\n";
    for (const std::string& problem : check.problems) report->text += "  " + problem + "\n";
    if (found == 0) return;
    report->passed = false;
    const int64_t more = found - static_cast<int64_t>(check.problems.size());
    if (more > 0) report->text += "  and " + std::to_string(more) + " more\n";
    report->text +=
        "  'generate --context " + m.name +
        "' computes it again, and mends it, when it needs one of these pages; to mend it "
        "at once remove it and save it again\n";
  }
};

class RemoveCommand : public ContextCommand {
  Result<Report> RunVerb(const ContextCatalog& catalog) override {
    PQCACHE_RETURN_IF_ERROR(catalog.Remove(names_[0]));
    Report report;
    report.json.Set("name", names_[0]).Set("removed", true);
    report.text = names_[0] + " removed\n";
    return report;
  }
};

class RepairCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    flags->Text("--store", &store_spec_, "rocksdb:path=DIR, the store to read; it stays as it is");
    flags->Text("--into", &into_, "folder of the new store");
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(CheckGivenStore(store_spec_));
    PQCACHE_ASSIGN_OR_RETURN(folder_, storage::FolderOfStore(store_spec_));
    if (!into_.empty()) return Status::Ok();
    return Status::InvalidArgument("--into is absent, expected a new folder");
  }

  Result<Report> Run(bool) override {
    PQCACHE_ASSIGN_OR_RETURN(const storage::Salvage salvage,
                             storage::SalvageStoreFolder(folder_, into_));
    Report report;
    Json contexts = Json::Array(), damaged = Json::Array();
    for (const FileDamage& damage : salvage.damaged) {
      damaged.Push(damage.file + ": " + damage.what);
      report.text +=
          "cannot be read: " + damage.part + " of " + damage.file + ": " + damage.what + "\n";
    }
    for (const std::string& name : salvage.lost) {
      report.text += "LOST: " + name + ": its token ids are not there (also if it was removed)\n";
    }
    for (const ContextManifest& m : salvage.contexts) {
      contexts.Push(DescribeContext(m));
      report.text += ContextLine(m);
    }
    report.text += into_ + ": " + std::to_string(salvage.pages) + " pages of " +
                   std::to_string(salvage.contexts.size()) +
                   " contexts; 'context verify' tells which pages are missing\n";
    if (salvage.records_damaged) {
      report.text += "some files may have held records: there may have been more contexts\n";
    }
    report.passed = salvage.lost.empty() && !salvage.records_damaged;
    report.json.Set("into", into_).Set("pages", salvage.pages);
    report.json.Set("contexts", std::move(contexts)).Set("lost", Strings(salvage.lost));
    report.json.Set("damaged", std::move(damaged));
    return report;
  }

 private:
  std::string store_spec_, into_, folder_;
};

}  // namespace

std::unique_ptr<Command> CreateContextListCommand() { return std::make_unique<ListCommand>(); }
std::unique_ptr<Command> CreateContextShowCommand() { return std::make_unique<ShowCommand>(); }
std::unique_ptr<Command> CreateContextVerifyCommand() { return std::make_unique<VerifyCommand>(); }
std::unique_ptr<Command> CreateContextRemoveCommand() { return std::make_unique<RemoveCommand>(); }
std::unique_ptr<Command> CreateContextRepairCommand() { return std::make_unique<RepairCommand>(); }

}  // namespace pqcache::tools
