#pragma once

// Flags and subcommands. Flags are declared by a command and parsed by CLI11, which only cli.cpp
// sees. Long names accept "_" for "-"; counts accept k, M, G (powers of 1024).

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::tools {

// Declares the flags of one command. Targets keep their value when a flag is not given and must
// outlive parsing. `names` is as in "-m,--model".
class Flags {
 public:
  virtual ~Flags() = default;
  virtual void Text(std::string_view names, std::string* target, std::string_view help) = 0;
  virtual void Texts(std::string_view names, std::vector<std::string>* target,
                     std::string_view help) = 0;  // repeatable, or separated by commas
  virtual void Specs(std::string_view names, std::vector<std::string>* target,
                     std::string_view help) = 0;  // repeatable; commas belong to the value
  virtual void Count(std::string_view names, int64_t* target, std::string_view help) = 0;
  virtual void Number(std::string_view names, double* target, std::string_view help) = 0;
  virtual void Switch(std::string_view names, bool* target, std::string_view help) = 0;
  virtual void Positional(std::string_view name, std::vector<std::string>* target,
                          std::string_view help) = 0;
};

// What a command prints: a JSON object, and the same for people.
struct Report {
  Json json;
  std::string text;
  bool passed = true;  // false: exit 1 after printing
};

// One subcommand. A fresh object runs once.
class Command {
 public:
  virtual ~Command() = default;
  virtual void Declare(Flags* flags) = 0;
  // Turns flags into options; an error here is wrong usage (exit 2).
  virtual Status Prepare() { return Status::Ok(); }
  // Does the work; an error is exit 1. `json` is true when stdout must hold JSON only.
  virtual Result<Report> Run(bool json) = 0;
};

// One row of THE LIST in pqcache_main.cpp.
struct CommandEntry {
  std::string_view name;  // "generate", or "context save": a verb of a group
  std::string_view help;
  std::unique_ptr<Command> (*create)();
};

// What the verbs that share a first word are about.
struct CommandGroup {
  std::string_view name;
  std::string_view help;
};

// Parses, runs, prints; returns the exit code.
int RunCommandLine(int argc, char** argv, std::span<const CommandEntry> commands,
                   std::span<const CommandGroup> groups);

}  // namespace pqcache::tools
