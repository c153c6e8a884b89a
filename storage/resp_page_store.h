#pragma once

// Pages on the servers of a Redis Cluster, or of anything that speaks its protocol (Redis, Valkey,
// Kvrocks), under the keys of resp_format.md. The spec is described in resp_config.h.
//
// Every page is verified on every read, on the copy that is handed out. A server that is down or
// slow makes its pages unreachable (IoError, counted) and no others. A call takes at most the
// timeout longer than its last progress, for a server that does not answer; a Put that fails takes
// the timeout once more to take back what it wrote.
//
// Durable is what the servers make durable: once Put returned OK the master has the pages, and what
// it and its replicas do with them is its configuration. An IoError of Put or of a record's
// writing leaves open what the server has done.
//
// Memory: batches in flight, at most kWindowBytes of commands a call and the replies to
// kWindowReads pages.

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pqcache/base/spec_string.h"
#include "pqcache/cache/page_store.h"
#include "storage/resp_cluster.h"

namespace pqcache::storage {

class RespPageStore final : public PageStore {
 public:
  // Also the name of its tier in PageStoreStats.
  static constexpr std::string_view kName = "resp";

  static constexpr uint64_t kMaxPageBytes = 8 << 20;
  // What goes out before answers are waited for.
  static constexpr uint64_t kWindowBytes = 8 << 20;
  static constexpr size_t kWindowCommands = 4096;
  // Pages in one MGET (their bytes stay below kMaxReplyBytes), and in all that are under way.
  static constexpr size_t kReadBatch = 32;
  static constexpr size_t kWindowReads = 512;

  // InvalidArgument for a spec that cannot be used, a wrong password or servers that may drop keys;
  // IoError if the named server does not answer.
  static Result<std::unique_ptr<PageStore>> Open(const SpecString& spec);

  // OutOfMemory, with the server's words, if a server's maxmemory is reached; InvalidArgument for a
  // page above kMaxPageBytes.
  Status Put(std::span<const PageWrite> pages) override;
  void Read(std::span<PageRead> pages) override;
  // After an error what is left can be removed by another call.
  Status RemoveContext(const ContextId& context) override;
  // Nothing is held back here: Put has answered for every page.
  Status Sync() override { return Status::Ok(); }
  PageStoreStats stats() const override;
  Result<bool> PutRecord(const RecordKey& key, std::string_view value) override;
  Result<bool> ReplaceRecord(const RecordKey& key, std::string_view expected,
                             std::string_view value) override;
  Result<std::string> GetRecord(const RecordKey& key) override;
  Result<std::vector<Record>> ListRecords(const Fingerprint& tenant) override;
  Status RemoveRecord(const RecordKey& key) override;
  // This store has no budget: always OK.
  Status ReserveMemory(const void*, uint64_t) override { return Status::Ok(); }

 private:
  using Chunk = std::vector<size_t>;  // reads of one layer, by their index

  explicit RespPageStore(std::unique_ptr<RespCluster> cluster) : cluster_(std::move(cluster)) {}

  Status PutWindow(std::span<const PageWrite> pages);
  void TakeBack(std::span<const PageWrite> pages);
  Status ExecuteAll(std::span<const RespCommand> commands, RespDeadline deadline,
                    std::string_view action);
  // The reply, unless it is an error.
  Result<RespReply> Ask(const RespCommand& command, std::string_view action);
  Result<std::vector<std::string>> Members(const std::string& key);
  Status RemoveLayer(const std::string& prefix);
  bool ReadWindow(std::span<const Chunk> chunks, std::span<PageRead> pages, RespDeadline deadline);
  bool ReadOneByOne(const Chunk& chunk, std::span<PageRead> pages, RespDeadline deadline);
  bool Accept(const Result<RespReply>& reply, PageRead* read);

  const std::unique_ptr<RespCluster> cluster_;
  std::atomic<uint64_t> bytes_read_{0};
  std::atomic<uint64_t> damaged_{0};
  std::atomic<uint64_t> missing_{0};
  std::atomic<uint64_t> unreachable_{0};
};

}  // namespace pqcache::storage
