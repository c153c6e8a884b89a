#include "tools/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>

#include "pqcache/base/check.h"
#include "pqcache/base/isa.h"
#include "pqcache/base/log.h"
#include "pqcache/base/spec_string.h"

namespace pqcache::tools {
namespace {

// Keeps sums and products of two counts far from overflow.
constexpr int64_t kLargestCount = int64_t{1} << 31;

class AppFlags : public Flags {
 public:
  explicit AppFlags(CLI::App* app) : app_(app) {}

  void Text(std::string_view names, std::string* target, std::string_view help) override {
    app_->add_option(std::string(names), *target, std::string(help))->capture_default_str();
  }
  void Texts(std::string_view names, std::vector<std::string>* target,
             std::string_view help) override {
    app_->add_option(std::string(names), *target, std::string(help))
        ->delimiter(',')
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
  void Specs(std::string_view names, std::vector<std::string>* target,
             std::string_view help) override {
    app_->add_option(std::string(names), *target, std::string(help))
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
  void Count(std::string_view names, int64_t* target, std::string_view help) override {
    app_->add_option_function<std::string>(
            std::string(names),
            [target, names = std::string(names)](const std::string& text) {
              const Result<int64_t> value = ParseCount(text, names);
              if (!value.ok()) throw CLI::ValidationError(value.status().message());
              if (*value > kLargestCount) {
                throw CLI::ValidationError(names + " is '" + text + "', expected at most " +
                                           std::to_string(kLargestCount));
              }
              *target = *value;
            },
            std::string(help))
        ->default_str(std::to_string(*target))
        ->type_name("COUNT");
  }
  void Number(std::string_view names, double* target, std::string_view help) override {
    app_->add_option(std::string(names), *target, std::string(help))->capture_default_str();
  }
  void Switch(std::string_view names, bool* target, std::string_view help) override {
    app_->add_flag(std::string(names), *target, std::string(help));
  }
  void Positional(std::string_view name, std::vector<std::string>* target,
                  std::string_view help) override {
    app_->add_option(std::string(name), *target, std::string(help));
  }

 private:
  CLI::App* app_;
};

// "--local_window=256" becomes "--local-window=256"; values are left alone.
std::vector<std::string> NormaliseNames(int argc, char** argv) {
  std::vector<std::string> args;
  for (int i = argc - 1; i >= 1; --i) {  // CLI11 takes them in reverse
    std::string arg = argv[i];
    if (arg.starts_with("--")) {
      const auto end = std::find(arg.begin(), arg.end(), '=');
      std::replace(arg.begin(), end, '_', '-');
    }
    args.push_back(std::move(arg));
  }
  return args;
}

int Fail(const Status& status, int code) {
  std::fprintf(stderr, "pqcache: %s: %s\n", std::string(StatusCodeName(status.code())).c_str(),
               status.message().c_str());
  return code;
}

int Execute(Command* command, bool json) {
  if (const Status status = command->Prepare(); !status.ok()) return Fail(status, 2);
  const Result<Report> report = command->Run(json);
  if (!report.ok()) return Fail(report.status(), 1);
  const std::string out = json ? report->json.Dump(1) + "\n" : report->text;
  const bool written = std::fwrite(out.data(), 1, out.size(), stdout) == out.size();
  if (!written || std::fflush(stdout) != 0) {
    return Fail(Status::IoError("cannot write the result to stdout"), 1);
  }
  return report->passed ? 0 : 1;
}

// Below its group, which its first verb makes.
CLI::App* AddCommand(CLI::App* app, const CommandEntry& entry,
                     std::span<const CommandGroup> groups) {
  const size_t space = entry.name.find(' ');
  const std::string help(entry.help);
  if (space == std::string_view::npos) return app->add_subcommand(std::string(entry.name), help);
  const std::string_view name = entry.name.substr(0, space);
  const auto group = std::find_if(groups.begin(), groups.end(),
                                  [&](const CommandGroup& g) { return g.name == name; });
  PQCACHE_CHECK(group != groups.end(), "a verb of a group that is not in the list");
  const auto made = app->get_subcommands([&](CLI::App* sub) { return sub->get_name() == name; });
  CLI::App* parent = made.empty() ? app->add_subcommand(std::string(name), std::string(group->help))
                                  : made.front();
  parent->require_subcommand(1);
  return parent->add_subcommand(std::string(entry.name.substr(space + 1)), help);
}

// InvalidArgument if the first word is no command of `app`, or the second no verb of that group.
Status CheckKnown(const CLI::App* app, std::span<char* const> words, const std::string& group) {
  const auto commands = app->get_subcommands([](const CLI::App*) { return true; });
  if (commands.empty() || (!words.empty() && words[0][0] == '-')) return Status::Ok();
  std::string known;
  for (const CLI::App* command : commands) {
    if (!words.empty() && command->get_name() == words[0]) {
      return CheckKnown(command, words.subspan(1), command->get_name() + " ");
    }
    known += (known.empty() ? "" : ", ") + command->get_name();
  }
  const std::string found =
      words.empty() ? "no command" : "unknown command '" + group + std::string(words[0]) + "'";
  return Status::InvalidArgument((words.empty() && !group.empty() ? group + "has no verb" : found) +
                                 ", expected one of: " + known);
}

}  // namespace

int RunCommandLine(int argc, char** argv, std::span<const CommandEntry> entries,
                   std::span<const CommandGroup> groups) {
  CLI::App app("pqcache: attend in place over a context that is larger than memory", "pqcache");
  app.require_subcommand(1);
  bool json = false, verbose = false;
  std::map<const CLI::App*, std::unique_ptr<Command>> commands;
  for (const CommandEntry& entry : entries) {
    CLI::App* sub = AddCommand(&app, entry, groups);
    commands[sub] = entry.create();
    AppFlags flags(sub);
    commands[sub]->Declare(&flags);
    sub->add_flag("--json", json, "print one JSON object on stdout");
    sub->add_flag("-v,--verbose", verbose, "say more on stderr");
  }
  const std::span<char* const> words(argv + 1, static_cast<size_t>(std::max(0, argc - 1)));
  if (const Status known = CheckKnown(&app, words, ""); !known.ok()) return Fail(known, 2);
  try {
    app.parse(NormaliseNames(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (const Status isa = CheckForcedIsa(); !isa.ok()) return Fail(isa, 2);
  if (verbose) SetLogLevel(LogLevel::kDebug);
  const CLI::App* asked = &app;
  while (!asked->get_subcommands().empty()) asked = asked->get_subcommands().front();
  return Execute(commands.at(asked).get(), json);
}

}  // namespace pqcache::tools
