// pqcache report: results of evaluation runs as one HTML page.

#include "pqcache/base/file_io.h"
#include "tools/commands.h"
#include "tools/report/page.h"

namespace pqcache::tools {
namespace {

class ReportCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    flags->Positional("folders", &folders_, "folders that pqcache eval -o wrote");
    flags->Text("-o,--output", &output_, "the HTML file");
  }

  Status Prepare() override {
    if (folders_.empty())
      return Status::InvalidArgument("no folder is given, expected one or more");
    if (output_.empty()) return Status::InvalidArgument("--output is absent, expected a file");
    return Status::Ok();
  }

  Result<Report> Run(bool) override {
    std::vector<RunFolder> runs;
    for (const std::string& folder : folders_) {
      PQCACHE_ASSIGN_OR_RETURN(runs.emplace_back(), ReadRunFolder(folder));
    }
    const std::string page = MakePage(runs);
    PQCACHE_RETURN_IF_ERROR(WriteFileAtomically(output_, page));
    Report report;
    report.json.Set("file", output_).Set("bytes", page.size()).Set("runs", runs.size());
    report.text = output_ + ": " + std::to_string(page.size()) + " bytes\n";
    return report;
  }

 private:
  std::vector<std::string> folders_;
  std::string output_;
};

}  // namespace

std::unique_ptr<Command> CreateReportCommand() { return std::make_unique<ReportCommand>(); }

}  // namespace pqcache::tools
