#include "storage/page_key_codec.h"

#include <cstdint>
#include <cstring>

#include "pqcache/base/check.h"
#include "pqcache/base/coding.h"
#include "pqcache/base/random.h"

namespace pqcache::storage {
namespace {

void AppendBytes(std::string* out, const Fingerprint& f) {
  out->append(reinterpret_cast<const char*>(f.bytes.data()), f.bytes.size());
}

std::string ContextPrefix(const ContextId& context) {
  std::string identity;
  AppendBytes(&identity, context.tenant);
  AppendBytes(&identity, context.model);
  AppendBytes(&identity, context.context);
  std::string prefix;
  AppendBytes(&prefix, FingerprintOf(identity));
  return prefix;
}

uint64_t FirstBytes(const Fingerprint& f) {
  uint64_t v;
  std::memcpy(&v, f.bytes.data(), sizeof(v));
  return v;
}

}  // namespace

std::string EncodePageKey(const PageKey& key) {
  PQCACHE_CHECK(key.layer >= 0 && key.head >= 0 && key.page >= 0, "negative part of a page key");
  std::string out = ContextPrefix(key.context);
  PutBigEndian32(&out, static_cast<uint32_t>(key.layer));
  PutBigEndian32(&out, static_cast<uint32_t>(key.head));
  PutBigEndian64(&out, static_cast<uint64_t>(key.page));
  return out;
}

PageKeyRange ContextKeyRange(const ContextId& context) {
  PageKeyRange range;
  range.begin = ContextPrefix(context);
  // A layer is below 2^31, so no key of the context goes on with 0xff.
  range.end = range.begin + '\xff';
  return range;
}

std::string DescribePageKey(const PageKey& key) {
  return "page " + std::to_string(key.page) + " of layer " + std::to_string(key.layer) + " head " +
         std::to_string(key.head) + ", context " + key.context.context.Hex();
}

size_t PageKeyHash::operator()(const PageKey& key) const {
  const uint64_t context = FirstBytes(key.context.tenant) ^ FirstBytes(key.context.model) ^
                           FirstBytes(key.context.context);
  const uint64_t head = (static_cast<uint64_t>(static_cast<uint32_t>(key.layer)) << 32) |
                        static_cast<uint32_t>(key.head);
  return MixSeed(MixSeed(context, head), static_cast<uint64_t>(key.page));
}

}  // namespace pqcache::storage
