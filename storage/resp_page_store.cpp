#include "storage/resp_page_store.h"

#include <algorithm>
#include <map>
#include <set>

#include "pqcache/base/check.h"
#include "pqcache/cache/page_codec.h"
#include "storage/page_key_codec.h"
#include "storage/resp_config.h"
#include "storage/resp_keys.h"

namespace pqcache::storage {
namespace {

using Kind = RespReply::Kind;

std::string_view PageText(const PageWrite& write) {
  return {reinterpret_cast<const char*>(write.page->data()), write.page->size()};
}

// What an error of a server means to the caller.
Status StatusOfReply(const RespReply& reply) {
  if (!reply.is(Kind::kError)) return Status::Ok();
  const std::string message = "the server answers " + DescribeReply(reply);
  return reply.IsError("OOM") ? Status::OutOfMemory(message) : Status::IoError(message);
}

Status Unexpected(std::string_view action, const RespReply& reply, std::string_view expected) {
  return Status::IoError("resp: " + std::string(action) + ": the server answers " +
                         DescribeReply(reply) + ", expected " + std::string(expected));
}

// How many of `pages` go out together.
size_t WindowSize(std::span<const PageWrite> pages) {
  uint64_t bytes = 0;
  size_t n = 0;
  while (n < pages.size() && n < RespPageStore::kWindowCommands) {
    bytes += pages[n].page->size();
    if (n > 0 && bytes > RespPageStore::kWindowBytes) break;
    ++n;
  }
  return n;
}

}  // namespace

Result<std::unique_ptr<PageStore>> RespPageStore::Open(const SpecString& spec) {
  PQCACHE_ASSIGN_OR_RETURN(const RespConfig config, ReadRespConfig(spec));
  PQCACHE_ASSIGN_OR_RETURN(std::unique_ptr<RespCluster> cluster, RespCluster::Open(config));
  return std::unique_ptr<PageStore>(new RespPageStore(std::move(cluster)));
}

Status RespPageStore::Put(std::span<const PageWrite> pages) {
  for (const PageWrite& write : pages) {
    PQCACHE_CHECK(write.page != nullptr, "a page to put is null");
    if (write.page->size() <= kMaxPageBytes) continue;
    return Status::InvalidArgument(
        DescribePageKey(write.key) + ": has " + std::to_string(write.page->size()) +
        " bytes, expected at most " + std::to_string(kMaxPageBytes) + " in a resp store");
  }
  for (size_t begin = 0; begin < pages.size();) {
    const size_t end = begin + WindowSize(pages.subspan(begin));
    const Status put = PutWindow(pages.subspan(begin, end - begin));
    if (!put.ok()) {
      TakeBack(pages.first(end));
      return put;
    }
    begin = end;
  }
  return Status::Ok();
}

// The sets come first: a page that is in no set could not be found when its context is removed.
Status RespPageStore::PutWindow(std::span<const PageWrite> pages) {
  std::map<std::string, std::set<std::string>> members;
  std::vector<RespCommand> sets;
  for (const PageWrite& write : pages) {
    const std::string context = RespContextName(write.key.context);
    const std::string layer = std::to_string(write.key.layer);
    members[RespLayersKey(context)].insert(layer);
    const std::string prefix = RespLayerPrefix(context, layer);
    const std::string suffix = RespPageSuffix(write.key);
    members[RespPagesKey(prefix)].insert(suffix);
    sets.push_back({"SET", prefix + suffix, PageText(write)});
  }
  std::vector<RespCommand> additions;
  for (const auto& [key, list] : members) {
    std::vector<std::string_view> args = {"SADD", key};
    args.insert(args.end(), list.begin(), list.end());
    additions.emplace_back(args);
  }
  PQCACHE_RETURN_IF_ERROR(ExecuteAll(additions, cluster_->NewDeadline(), "list pages"));
  return ExecuteAll(sets, cluster_->NewDeadline(), "put pages");
}

// Best effort: what a dead server keeps of it is removed with the context.
void RespPageStore::TakeBack(std::span<const PageWrite> pages) {
  const RespDeadline deadline = cluster_->NewDeadline();
  std::vector<RespCommand> commands;
  for (const PageWrite& write : pages) {
    const std::string prefix =
        RespLayerPrefix(RespContextName(write.key.context), std::to_string(write.key.layer));
    const std::string suffix = RespPageSuffix(write.key);
    commands.push_back({"UNLINK", prefix + suffix});
    commands.push_back({"SREM", RespPagesKey(prefix), suffix});
  }
  (void)ExecuteAll(commands, deadline, "take back pages");
}

// All are tried. Of several failures a full server is the one to tell: it explains the others.
Status RespPageStore::ExecuteAll(std::span<const RespCommand> commands, RespDeadline deadline,
                                 std::string_view action) {
  Status failure;
  for (size_t i = 0; i < commands.size(); i += kWindowCommands) {
    const auto window = commands.subspan(i, std::min(kWindowCommands, commands.size() - i));
    for (const Result<RespReply>& outcome : cluster_->Execute(window, deadline)) {
      const Status status = outcome.ok() ? StatusOfReply(*outcome) : outcome.status();
      const bool full = status.code() == StatusCode::kOutOfMemory;
      if (failure.ok() || (full && failure.code() != status.code())) failure = status;
    }
  }
  return failure.Annotate("resp: " + std::string(action));
}

Result<RespReply> RespPageStore::Ask(const RespCommand& command, std::string_view action) {
  std::vector<Result<RespReply>> outcomes =
      cluster_->Execute({&command, 1}, cluster_->NewDeadline());
  Result<RespReply>& outcome = outcomes.front();
  const Status status = outcome.ok() ? StatusOfReply(*outcome) : outcome.status();
  if (!status.ok()) return status.Annotate("resp: " + std::string(action));
  return std::move(outcome);
}

Result<std::vector<std::string>> RespPageStore::Members(const std::string& key) {
  PQCACHE_ASSIGN_OR_RETURN(RespReply reply, Ask({"SMEMBERS", key}, "remove context"));
  if (!reply.is(Kind::kArray)) return Unexpected("remove context", reply, "an array");
  std::vector<std::string> members;
  for (RespReply& element : reply.elements) members.push_back(std::move(element.text));
  return members;
}

// The sets go last, so that a removal that failed half way can be repeated.
Status RespPageStore::RemoveContext(const ContextId& context) {
  const std::string name = RespContextName(context);
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<std::string> layers, Members(RespLayersKey(name)));
  for (const std::string& layer : layers) {
    PQCACHE_RETURN_IF_ERROR(RemoveLayer(RespLayerPrefix(name, layer)));
  }
  return Ask({"UNLINK", RespLayersKey(name)}, "remove context").status();
}

// A command per page: keys of one command may be on two servers while their slot moves.
Status RespPageStore::RemoveLayer(const std::string& prefix) {
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<std::string> pages, Members(RespPagesKey(prefix)));
  for (size_t i = 0; i < pages.size(); i += kWindowCommands) {
    std::vector<RespCommand> commands;
    for (size_t j = i; j < std::min(i + kWindowCommands, pages.size()); ++j) {
      commands.push_back({"UNLINK", prefix + pages[j]});
    }
    PQCACHE_RETURN_IF_ERROR(ExecuteAll(commands, cluster_->NewDeadline(), "remove context"));
  }
  return Ask({"UNLINK", RespPagesKey(prefix)}, "remove context").status();
}

void RespPageStore::Read(std::span<PageRead> pages) {
  std::map<std::string, Chunk> layers;
  for (size_t i = 0; i < pages.size(); ++i) {
    const PageKey& key = pages[i].key;
    layers[RespLayerPrefix(RespContextName(key.context), std::to_string(key.layer))].push_back(i);
  }
  std::vector<Chunk> window;
  size_t waiting = 0;
  RespDeadline deadline = cluster_->NewDeadline();
  const auto flush = [&] {
    // Time is granted anew only by servers that all answered.
    if (ReadWindow(window, pages, deadline)) deadline = cluster_->NewDeadline();
    window.clear();
    waiting = 0;
  };
  for (const auto& [prefix, reads] : layers) {
    for (size_t i = 0; i < reads.size(); i += kReadBatch) {
      const size_t end = std::min(i + kReadBatch, reads.size());
      if (waiting + end - i > kWindowReads) flush();
      window.emplace_back(reads.begin() + static_cast<ptrdiff_t>(i),
                          reads.begin() + static_cast<ptrdiff_t>(end));
      waiting += end - i;
    }
  }
  flush();
}

// False if a page could not be reached.
bool RespPageStore::ReadWindow(std::span<const Chunk> chunks, std::span<PageRead> pages,
                               RespDeadline deadline) {
  std::vector<RespCommand> commands;
  for (const Chunk& chunk : chunks) {
    std::vector<std::string> keys;
    for (const size_t i : chunk) keys.push_back(RespPageKey(pages[i].key));
    std::vector<std::string_view> args = {"MGET"};
    args.insert(args.end(), keys.begin(), keys.end());
    commands.emplace_back(args);
  }
  std::vector<Result<RespReply>> outcomes = cluster_->Execute(commands, deadline);
  bool reached = true;
  for (size_t c = 0; c < chunks.size(); ++c) {
    const Result<RespReply>& outcome = outcomes[c];
    const Chunk& chunk = chunks[c];
    if (outcome.ok() && outcome->IsError("TRYAGAIN")) {
      reached = ReadOneByOne(chunk, pages, deadline) && reached;
      continue;
    }
    const bool whole =
        outcome.ok() && outcome->is(Kind::kArray) && outcome->elements.size() == chunk.size();
    for (size_t i = 0; i < chunk.size(); ++i) {
      PageRead* read = &pages[chunk[i]];
      reached = (whole ? Accept(outcome->elements[i], read) : Accept(outcome, read)) && reached;
    }
  }
  return reached;
}

// For a slot on its way to another server, where the keys of a chunk are on both.
bool RespPageStore::ReadOneByOne(const Chunk& chunk, std::span<PageRead> pages,
                                 RespDeadline deadline) {
  std::vector<RespCommand> commands;
  for (const size_t i : chunk) commands.push_back({"GET", RespPageKey(pages[i].key)});
  const std::vector<Result<RespReply>> outcomes = cluster_->Execute(commands, deadline);
  bool reached = true;
  for (size_t i = 0; i < chunk.size(); ++i) {
    reached = Accept(outcomes[i], &pages[chunk[i]]) && reached;
  }
  return reached;
}

// Copies first and verifies the copy: that is the memory which will be used. False if the page
// could not be reached.
bool RespPageStore::Accept(const Result<RespReply>& reply, PageRead* read) {
  const std::string name = DescribePageKey(read->key);
  read->page = nullptr;
  if (!reply.ok()) {
    read->status = reply.status().Annotate(name);
  } else if (reply->is(Kind::kNil)) {
    read->status = Status::NotFound(name + ": not in the resp store");
  } else if (!reply->is(Kind::kString)) {
    read->status = Unexpected("read", *reply, "a page").Annotate(name);
  } else {
    PageRef page = CopyPage(reply->text.data(), reply->text.size());
    read->status = VerifyPage(page->span(), read->key).Annotate(name + ": resp store");
    if (read->status.ok()) read->page = std::move(page);
  }
  if (read->status.ok()) bytes_read_ += read->page->size();
  if (read->status.code() == StatusCode::kNotFound) ++missing_;
  if (read->status.code() == StatusCode::kCorruption) ++damaged_;
  if (read->status.code() == StatusCode::kIoError) ++unreachable_;
  return read->status.code() != StatusCode::kIoError;
}

PageStoreStats RespPageStore::stats() const {
  PageStoreStats stats;
  stats.bytes_read[std::string(kName)] = bytes_read_;
  stats.damaged_pages = damaged_;
  stats.missing_pages = missing_;
  stats.unreachable_pages = unreachable_;
  return stats;
}

Result<bool> RespPageStore::PutRecord(const RecordKey& key, std::string_view value) {
  PQCACHE_RETURN_IF_ERROR(CheckRecord(key, value));
  PQCACHE_ASSIGN_OR_RETURN(
      const RespReply reply,
      Ask({"HSETNX", RespRecordsKey(key.tenant), key.name, value}, "put record " + key.name));
  if (!reply.is(Kind::kInteger)) return Unexpected("put record", reply, "0 or 1");
  return reply.integer == 1;
}

Result<bool> RespPageStore::ReplaceRecord(const RecordKey& key, std::string_view expected,
                                          std::string_view value) {
  PQCACHE_RETURN_IF_ERROR(CheckRecord(key, value));
  static constexpr std::string_view kCompareAndSet =
      "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end "
      "redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) return 1";
  const std::string records = RespRecordsKey(key.tenant);
  PQCACHE_ASSIGN_OR_RETURN(
      const RespReply reply,
      Ask(RespCommand(records, {"EVAL", kCompareAndSet, "1", records, key.name, expected, value}),
          "replace record " + key.name));
  if (!reply.is(Kind::kInteger)) return Unexpected("replace record", reply, "0 or 1");
  return reply.integer == 1;
}

Result<std::string> RespPageStore::GetRecord(const RecordKey& key) {
  PQCACHE_ASSIGN_OR_RETURN(RespReply reply, Ask({"HGET", RespRecordsKey(key.tenant), key.name},
                                                "read record " + key.name));
  if (reply.is(Kind::kNil)) return Status::NotFound("record " + key.name + ": no such record");
  if (!reply.is(Kind::kString)) return Unexpected("read record", reply, "a string");
  return std::move(reply.text);
}

Result<std::vector<Record>> RespPageStore::ListRecords(const Fingerprint& tenant) {
  PQCACHE_ASSIGN_OR_RETURN(RespReply reply,
                           Ask({"HGETALL", RespRecordsKey(tenant)}, "list records"));
  if (!reply.is(Kind::kArray) || reply.elements.size() % 2 != 0) {
    return Unexpected("list records", reply, "an array of names and values");
  }
  std::vector<Record> list;
  for (size_t i = 0; i < reply.elements.size(); i += 2) {
    list.push_back(
        {{tenant, std::move(reply.elements[i].text)}, std::move(reply.elements[i + 1].text)});
  }
  std::sort(list.begin(), list.end(),
            [](const Record& a, const Record& b) { return a.key.name < b.key.name; });
  return list;
}

Status RespPageStore::RemoveRecord(const RecordKey& key) {
  return Ask({"HDEL", RespRecordsKey(key.tenant), key.name}, "remove record " + key.name).status();
}

}  // namespace pqcache::storage
