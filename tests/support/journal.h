#pragma once

// What a process that will be killed had been told, line by line: a word, then a name.

#include <fstream>
#include <map>
#include <string>

namespace pqcache::testing {

class Journal {
 public:
  explicit Journal(const std::string& path) : out_(path, std::ios::app) {}
  void Write(const std::string& what, const std::string& name) {
    out_ << what << ' ' << name << std::endl;  // a killed process loses nothing it has written
  }

  // The last word on each name.
  static std::map<std::string, std::string> Read(const std::string& path) {
    std::ifstream in(path);
    std::map<std::string, std::string> last;
    for (std::string what, name; in >> what >> name;) last[name] = what;
    return last;
  }

 private:
  std::ofstream out_;
};

}  // namespace pqcache::testing
