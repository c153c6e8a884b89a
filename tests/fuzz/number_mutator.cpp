// Limits are on numbers, and most of these formats spell theirs as text, where changing a byte at
// random seldom gives another number. Half of all mutations therefore replace one.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "pqcache/base/random.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace pqcache {
namespace {

constexpr std::string_view kDigits = "0123456789";

// `digits`: what stood there.
std::string OtherNumber(std::string_view digits, Random* random) {
  const uint64_t power = uint64_t{1} << random->Below(64);
  switch (random->Below(5)) {
    case 0:
      return std::to_string(power - random->Below(2));
    case 1:
      return std::to_string(random->Below(20));
    case 2:
      return '-' + std::string(digits);
    case 3:
      return std::string(digits) + (random->Below(2) == 0 ? ".5" : "e300");
    default:
      const uint64_t near = std::strtoull(std::string(digits).c_str(), nullptr, 10);
      return std::to_string(near + random->Below(5) - 2);
  }
}

// The new size, or 0 if there is no number or no room.
size_t ReplaceNumber(uint8_t* data, size_t size, size_t max_size, Random* random) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t begin = text.find_first_of(kDigits, random->Below(size));
  if (begin == std::string_view::npos) return 0;
  const size_t end = std::min(text.find_first_not_of(kDigits, begin), size);
  const std::string number = OtherNumber(text.substr(begin, end - begin), random);
  if (size - (end - begin) + number.size() > max_size) return 0;
  std::memmove(data + begin + number.size(), data + end, size - end);
  std::memcpy(data + begin, number.data(), number.size());
  return size - (end - begin) + number.size();
}

}  // namespace
}  // namespace pqcache

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  pqcache::Random random(seed);
  if (size > 0 && random.Below(2) == 0) {
    const size_t replaced = pqcache::ReplaceNumber(data, size, max_size, &random);
    if (replaced > 0) return replaced;
  }
  return LLVMFuzzerMutate(data, size, max_size);
}
