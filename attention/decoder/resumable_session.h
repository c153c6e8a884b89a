#pragma once

// A session that survives lost pages: when one that it needs is missing, damaged or out of reach,
// everything is computed anew from the tokens, and the answer goes on as if nothing had happened.
// What was missing is never replaced by a guess.
//
// One thread at a time. Decoder and store are borrowed.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attention/decoder/session.h"

namespace pqcache::attention {

enum class OnMissing {
  kRecompute,
  kFail,  // the miss is the error of the call
};

struct ResumableOptions {
  SessionStorage storage;
  CacheAttentionOptions attention;
  OnMissing on_missing = OnMissing::kRecompute;
  // Of the codes that a stored prefix is to have when it was computed anew; null: those of storage.
  std::shared_ptr<const CodebookSet> stored_codebooks;
  // Makes the store that takes over when the session's is out of reach.
  std::function<std::unique_ptr<PageStore>()> make_memory_store;
  // Called after a stored prefix was computed anew, with a session that holds just that prefix. Not
  // called when the store is out of reach.
  std::function<void(Session*)> on_recomputed;
};

class ResumableSession {
 public:
  // Behind a stored prefix, of which `tokens` are the ids, or empty.
  static Result<std::unique_ptr<ResumableSession>> Create(const Decoder* decoder,
                                                          ResumableOptions options,
                                                          std::optional<StoredPrefix> prefix,
                                                          std::span<const int64_t> tokens);

  // As Session's.
  Status Prefill(std::span<const int64_t> tokens, int64_t logit_rows, std::vector<float>* logits,
                 const PrefillProgress& progress = {});
  Status Step(int64_t token, std::vector<float>* logits);
  Status Ask(std::span<const int64_t> tokens, std::vector<float>* logits);

  // Another one after a recomputation; nullptr after one that failed, whose error is then that of
  // every call.
  Session* session() const { return session_.get(); }
  // Where its pages are; not the caller's store when that one is out of reach.
  const PageStore& store() const;
  // By tier, from all stores since they were opened.
  std::map<std::string, uint64_t> bytes_read() const;
  int recomputations() const { return recomputations_; }

 private:
  ResumableSession(const Decoder* decoder, ResumableOptions options)
      : decoder_(decoder), options_(std::move(options)) {}
  // Runs the call; after a miss, starts over and runs it again.
  Status Run(const std::function<Status(Session*)>& call);
  bool IsMiss(const Status& status) const;
  Status StartOver(const Status& why, bool in_memory);
  void MoveToMemory();
  Status Recompute();

  const Decoder* decoder_;
  ResumableOptions options_;
  std::unique_ptr<PageStore> memory_;  // instead of a store out of reach
  std::unique_ptr<Session> session_;
  std::vector<int64_t> prefix_;              // tokens of the stored prefix
  std::vector<int64_t> exact_;               // prefilled behind it
  std::vector<std::vector<int64_t>> asked_;  // and then decoded under the policy, by call
  int recomputations_ = 0;
  Status failed_;  // of the last recomputation
};

}  // namespace pqcache::attention
