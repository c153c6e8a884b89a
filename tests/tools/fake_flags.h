#pragma once

// Flags for tests of commands: sets what a command declares, without a command line.

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/check.h"
#include "tools/cli.h"

namespace pqcache::testing {

class FakeFlags : public tools::Flags {
 public:
  void Text(std::string_view names, std::string* target, std::string_view) override {
    texts_[std::string(names)] = target;
  }
  void Texts(std::string_view names, std::vector<std::string>* target, std::string_view) override {
    lists_[std::string(names)] = target;
  }
  void Specs(std::string_view names, std::vector<std::string>* target, std::string_view) override {
    lists_[std::string(names)] = target;
  }
  void Count(std::string_view, int64_t*, std::string_view) override {}
  void Number(std::string_view, double*, std::string_view) override {}
  void Switch(std::string_view, bool*, std::string_view) override {}
  void Positional(std::string_view name, std::vector<std::string>* target,
                  std::string_view) override {
    lists_[std::string(name)] = target;
  }

  // `names` as declared, e.g. "-m,--model".
  void Set(const std::string& names, const std::string& value) {
    PQCACHE_CHECK(texts_.contains(names), "no such flag");
    *texts_[names] = value;
  }
  void Set(const std::string& names, const std::vector<std::string>& values) {
    PQCACHE_CHECK(lists_.contains(names), "no such flag");
    *lists_[names] = values;
  }

 private:
  std::map<std::string, std::string*> texts_;
  std::map<std::string, std::vector<std::string>*> lists_;
};

}  // namespace pqcache::testing
