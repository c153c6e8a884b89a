#include "storage/page_buffer.h"

#include <cstring>
#include <utility>

#include "pqcache/base/check.h"
#include "storage/page_key_codec.h"

namespace pqcache::storage {
namespace {

PageRef Copy(const PageBytes& page) {
  auto copy = std::make_shared<PageBytes>(PageBytes::ForOverwrite(page.size()));
  std::memcpy(copy->data(), page.data(), copy->size());
  return copy;
}

}  // namespace

Status PageBuffer::Put(std::span<const PageWrite> pages) {
  std::unique_lock lock(mutex_);
  written_.wait(lock, [&] { return waiting_bytes_ < limit_ || writes_started_ == writes_ended_; });
  if (!outcome_.ok()) {
    lock.unlock();
    PQCACHE_RETURN_IF_ERROR(Flush());
    lock.lock();
  }
  for (const PageWrite& write : pages) {
    PQCACHE_CHECK(write.page != nullptr, "a page to put is null");
    Insert(EncodePageKey(write.key), Copy(*write.page));
  }
  if (waiting_bytes_ >= limit_ && writes_started_ == writes_ended_) StartWriting();
  return Status::Ok();
}

Status PageBuffer::Flush() {
  std::unique_lock lock(mutex_);
  written_.wait(lock, [&] { return writes_started_ == writes_ended_; });
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
  Pages pages;
  pages.swap(being_written_);
  outcome_ = status;
  ++writes_ended_;
  if (!status.ok()) {
    for (const auto& [key, page] : pages) {
      if (!waiting_.contains(key)) Insert(key, page);
    }
  }
  written_.notify_all();
}

void PageBuffer::Remove(const std::string& begin, const std::string& end) {
  std::unique_lock lock(mutex_);
  written_.wait(lock, [&] { return writes_started_ == writes_ended_; });
  const auto first = waiting_.lower_bound(begin), last = waiting_.lower_bound(end);
  for (auto it = first; it != last; ++it) waiting_bytes_ -= it->second->size();
  waiting_.erase(first, last);
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
    if (page != nullptr) page = Copy(*page);
  }
  return found;
}

void PageBuffer::Insert(const std::string& key, PageRef page) {
  PageRef& slot = waiting_[key];
  waiting_bytes_ += page->size() - (slot != nullptr ? slot->size() : 0);
  slot = std::move(page);
}

}  // namespace pqcache::storage
