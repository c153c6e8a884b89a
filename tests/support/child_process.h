#pragma once

// Tests of this program that run in a process of their own, to be killed or to have other rights.

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace pqcache::testing {

// Runs a command, looked for in the PATH, with `variables` added to the environment. -1 if it could
// not be started.
inline pid_t StartProgram(std::vector<std::string> words,
                          const std::map<std::string, std::string>& variables) {
  std::vector<char*> args;
  for (std::string& word : words) args.push_back(word.data());
  args.push_back(nullptr);
  std::vector<std::string> settings;
  for (const auto& [variable, value] : variables) settings.push_back(variable + "=" + value);
  std::vector<char*> environment;
  for (std::string& setting : settings) environment.push_back(setting.data());
  for (char** inherited = ::environ; *inherited != nullptr; ++inherited) {
    if (std::string(*inherited).starts_with("GTEST_")) continue;  // of the parent's own run
    environment.push_back(*inherited);
  }
  environment.push_back(nullptr);
  pid_t child = -1;
  const int failed =
      ::posix_spawnp(&child, args[0], nullptr, nullptr, args.data(), environment.data());
  return failed == 0 ? child : -1;
}

// Runs the (disabled) test `name` of this program; `before` is a command in front of it, e.g.
// {"unshare", "-m"}.
inline pid_t StartChild(const std::string& name,
                        const std::map<std::string, std::string>& variables,
                        std::vector<std::string> before = {}) {
  char program[4096] = {};  // by its path: the link would be that of the command in front
  if (::readlink("/proc/self/exe", program, sizeof(program) - 1) < 0) return -1;
  before.insert(before.end(), {program, "--gtest_filter=" + name, "--gtest_also_run_disabled_tests",
                               "--gtest_brief=1"});
  return StartProgram(std::move(before), variables);
}

// The status of waitpid.
inline int WaitForChild(pid_t child) {
  int how = 0;
  EXPECT_EQ(::waitpid(child, &how, 0), child);
  return how;
}

// True if it was alive until then.
inline bool KillChild(pid_t child) {
  ::kill(child, SIGKILL);
  return WIFSIGNALED(WaitForChild(child));
}

}  // namespace pqcache::testing
