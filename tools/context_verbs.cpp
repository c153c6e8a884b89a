#include "tools/context_verbs.h"

#include <ctime>

#include "pqcache/cache/stored_pages.h"

namespace pqcache::tools {

Status CheckOneName(const std::vector<std::string>& names) {
  if (names.size() == 1) return CheckContextName(names[0]);
  return Status::InvalidArgument("found " + std::to_string(names.size()) +
                                 " names, expected one name of a context");
}

Json DescribeContext(const ContextManifest& m) {
  Json j;
  j.Set("name", m.name).Set("tokens", m.tokens).Set("bytes", static_cast<int64_t>(m.bytes));
  j.Set("pages", StoredPageCount(m)).Set("model", m.identity.model.Hex());
  j.Set("dtype", DTypeName(m.identity.page.dtype)).Set("layers", m.identity.layers);
  j.Set("kv_heads", m.identity.kv_heads).Set("page_tokens", m.identity.page.page_tokens);
  j.Set("codebooks", m.codes.codebooks.Hex()).Set("bytes_per_key", m.codes.bytes_per_key);
  return j.Set("created", m.created);
}

std::string ContextLine(const ContextManifest& m) {
  char when[32] = "";
  const std::time_t created = static_cast<std::time_t>(m.created);
  struct tm utc;
  if (::gmtime_r(&created, &utc) != nullptr) {
    std::strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &utc);
  }
  const std::string codes = m.codes.bytes_per_key > 0
                                ? "codes of " + std::to_string(m.codes.bytes_per_key) + " bytes"
                                : "no codes";
  return m.name + "  " + std::to_string(m.tokens) + " tokens  " +
         std::string(DTypeName(m.identity.page.dtype)) + "  pages of " +
         std::to_string(m.identity.page.page_tokens) + "  " + codes + "  " +
         std::to_string(m.bytes) + " bytes  " + std::to_string(StoredPageCount(m)) + " pages  " +
         when + " UTC\n";
}

}  // namespace pqcache::tools
