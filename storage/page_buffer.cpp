#include "storage/page_buffer.h"

#include <utility>

#include "pqcache/base/check.h"
#include "pqcache/cache/page_codec.h"
#include "storage/page_key_codec.h"

namespace pqcache::storage {
namespace {

uint64_t BytesOf(const PageBuffer::Pages& pages) {
  uint64_t bytes = 0;
  for (const auto& [key, page] : pages) bytes += page->size();
  return bytes;
}

}  // namespace

Status PageBuffer::Put(std::span<const PageWrite> pages) {
  Pages batch;
  for (const PageWrite& write : pages) {
    PQCACHE_CHECK(write.page != nullptr, "a page to put is null");
    batch.insert_or_assign(EncodePageKey(write.key),
                           CopyPage(write.page->data(), write.page->size()));
  }
  std::unique_lock lock(mutex_);
  const auto has_room = [&] { return waiting_bytes_ < limit_ || idle(); };
  written_.wait(lock, has_room);
  while (!outcome_.ok()) {
    lock.unlock();
    PQCACHE_RETURN_IF_ERROR(Flush());
    lock.lock();
    written_.wait(lock, has_room);
  }
  for (const auto& [key, page] : batch) {
    waiting_bytes_ += page->size();
    const auto older = waiting_.find(key);
    if (older == waiting_.end()) continue;
    waiting_bytes_ -= older->second->size();
    waiting_.erase(older);
  }
  waiting_.merge(batch);
  if (waiting_bytes_ >= limit_ && idle()) StartWriting();
  return Status::Ok();
}

Status PageBuffer::Flush() {
  std::unique_lock lock(mutex_);
  written_.wait(lock, [&] { return idle(); });
  if (waiting_.empty()) {  // what could not be written, if anything, was removed
    outcome_ = Status::Ok();
    return outcome_;
  }
  StartWriting();
  const uint64_t own = writes_started_;
  written_.wait(lock, [&] { return writes_ended_ >= own; });
  return outcome_;
}

void PageBuffer::StartWriting() {
  being_written_.swap(waiting_);
  waiting_bytes_ = 0;
  ++writes_started_;
  queue_.Submit([this] { Write(); });
}

void PageBuffer::Write() {
  const Status status = writer_(being_written_);
  const std::lock_guard lock(mutex_);
  outcome_ = status;
  ++writes_ended_;
  if (!status.ok()) {
    waiting_.merge(being_written_);  // but for pages that were put anew
    waiting_bytes_ = BytesOf(waiting_);
  }
  being_written_.clear();
  written_.notify_all();
}

void PageBuffer::Remove(const std::string& begin, const std::string& end) {
  std::unique_lock lock(mutex_);
  written_.wait(lock, [&] { return idle(); });
  waiting_.erase(waiting_.lower_bound(begin), waiting_.lower_bound(end));
  waiting_bytes_ = BytesOf(waiting_);
}

std::vector<PageRef> PageBuffer::Find(std::span<const std::string> keys) const {
  std::vector<PageRef> found(keys.size());
  {
    const std::lock_guard lock(mutex_);
    for (const Pages* pages : {&being_written_, &waiting_}) {
      if (pages->empty()) continue;
      for (size_t i = 0; i < keys.size(); ++i) {
        if (const auto it = pages->find(keys[i]); it != pages->end()) found[i] = it->second;
      }
    }
  }
  for (PageRef& page : found) {
    if (page != nullptr) page = CopyPage(page->data(), page->size());
  }
  return found;
}

}  // namespace pqcache::storage
