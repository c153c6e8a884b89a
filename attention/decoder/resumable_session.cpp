#include "attention/decoder/resumable_session.h"

#include <utility>

#include "pqcache/base/log.h"

namespace pqcache::attention {

Result<std::unique_ptr<ResumableSession>> ResumableSession::Create(
    const Decoder* decoder, ResumableOptions options, std::optional<StoredPrefix> prefix,
    std::span<const int64_t> tokens) {
  std::unique_ptr<ResumableSession> made(new ResumableSession(decoder, std::move(options)));
  if (prefix.has_value()) made->prefix_.assign(tokens.begin(), tokens.end());
  const bool fails = made->options_.on_missing == OnMissing::kFail;
  Result<std::unique_ptr<Session>> session =
      Session::Create(decoder, made->options_.storage, made->options_.attention, std::move(prefix));
  if (session.ok()) {
    made->session_ = *std::move(session);
    return made;
  }
  const StatusCode code = session.status().code();
  const bool miss = code == StatusCode::kNotFound || code == StatusCode::kCorruption ||
                    code == StatusCode::kIoError;
  if (fails || made->prefix_.empty() || !miss) return session.status();
  PQCACHE_RETURN_IF_ERROR(made->StartOver(session.status(), /*in_memory=*/false));
  return made;
}

Status ResumableSession::Prefill(std::span<const int64_t> tokens, int64_t logit_rows,
                                 std::vector<float>* logits, const PrefillProgress& progress) {
  PQCACHE_CHECK(asked_.empty(), "prefill comes before the first step");
  PQCACHE_RETURN_IF_ERROR(
      Run([&](Session* s) { return s->Prefill(tokens, logit_rows, logits, progress); }));
  exact_.insert(exact_.end(), tokens.begin(), tokens.end());
  return Status::Ok();
}

Status ResumableSession::Step(int64_t token, std::vector<float>* logits) {
  return Ask({&token, 1}, logits);
}

Status ResumableSession::Ask(std::span<const int64_t> tokens, std::vector<float>* logits) {
  PQCACHE_RETURN_IF_ERROR(Run([&](Session* s) { return s->Ask(tokens, logits); }));
  asked_.emplace_back(tokens.begin(), tokens.end());
  return Status::Ok();
}

const PageStore& ResumableSession::store() const {
  return memory_ == nullptr ? *options_.storage.store : *memory_;
}

std::map<std::string, uint64_t> ResumableSession::bytes_read() const {
  std::map<std::string, uint64_t> bytes = options_.storage.store->stats().bytes_read;
  if (memory_ != nullptr) {
    for (const auto& [tier, read] : memory_->stats().bytes_read) bytes[tier] += read;
  }
  return bytes;
}

Status ResumableSession::Run(const std::function<Status(Session*)>& call) {
  PQCACHE_RETURN_IF_ERROR(failed_);
  Status status = call(session_.get());
  // A store that loses pages again and again is given up at the second miss of a call.
  for (int misses = 1; misses <= 2 && IsMiss(status); ++misses) {
    PQCACHE_RETURN_IF_ERROR(StartOver(status, misses == 2));
    status = call(session_.get());
  }
  return status;
}

bool ResumableSession::IsMiss(const Status& status) const {
  const bool miss = session_->missed_page() || status.code() == StatusCode::kIoError;
  return !status.ok() && miss && options_.on_missing == OnMissing::kRecompute;
}

Status ResumableSession::StartOver(const Status& why, bool in_memory) {
  Log(LogLevel::kWarning, "a page cannot be read, computing the context again: " + why.message());
  ++recomputations_;
  if (in_memory || why.code() == StatusCode::kIoError) MoveToMemory();
  failed_ = Recompute();
  const bool missed = session_ != nullptr && session_->missed_page();
  const bool store_failed = missed || failed_.code() == StatusCode::kIoError;
  if (!failed_.ok() && store_failed && memory_ == nullptr) {
    MoveToMemory();
    failed_ = Recompute();
  }
  if (!failed_.ok()) session_ = nullptr;
  return failed_;
}

void ResumableSession::MoveToMemory() {
  if (memory_ == nullptr) memory_ = options_.make_memory_store();
}

Status ResumableSession::Recompute() {
  session_ = nullptr;
  const bool mends = memory_ == nullptr && !prefix_.empty() && options_.on_recomputed;
  SessionStorage storage = options_.storage;
  if (memory_ != nullptr) storage.store = memory_.get();
  if (mends) {  // on_recomputed may save it
    storage.value_sums = true;
    if (options_.stored_codebooks != nullptr) storage.codebooks = options_.stored_codebooks;
  }
  PQCACHE_ASSIGN_OR_RETURN(session_, Session::Create(decoder_, storage, options_.attention));
  std::vector<float> logits;
  if (!prefix_.empty()) PQCACHE_RETURN_IF_ERROR(session_->Prefill(prefix_, 0, &logits));
  if (mends) options_.on_recomputed(session_.get());
  if (!exact_.empty()) PQCACHE_RETURN_IF_ERROR(session_->Prefill(exact_, 0, &logits));
  for (const auto& tokens : asked_) PQCACHE_RETURN_IF_ERROR(session_->Ask(tokens, &logits));
  return Status::Ok();
}

}  // namespace pqcache::attention
