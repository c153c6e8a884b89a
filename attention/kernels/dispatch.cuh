#pragma once

// The only maps from run-time shapes to template arguments: what is not in them is refused with
// the list of what is.

#include <string>
#include <type_traits>

#include "pqcache/base/status.h"

namespace pqcache::attention {

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// Calls fn(bits, bytes of a key's codes, words of a table entry).
template <typename Fn>
Status DispatchCodes(int bits, int bytes, int words, const Fn& fn) {
  const auto with_bytes = [&](auto b) {
    const auto with_words = [&](auto n) {
      return words == 1 ? fn(b, n, Constant<1>()) : fn(b, n, Constant<2>());
    };
    if (bytes == 8) return with_words(Constant<8>());
    if (bytes == 16) return with_words(Constant<16>());
    if (bytes == 32) return with_words(Constant<32>());
    return Status::InvalidArgument("codes of " + std::to_string(bytes) +
                                   " bytes a key, expected 8, 16 or 32 on a GPU");
  };
  return bits == 4 ? with_bytes(Constant<4>()) : with_bytes(Constant<8>());
}

// Calls fn(head size).
template <typename Fn>
Status DispatchDim(int dim, const Fn& fn) {
  if (dim == 64) return fn(Constant<64>());
  if (dim == 128) return fn(Constant<128>());
  return Status::InvalidArgument("head size is " + std::to_string(dim) +
                                 ", expected 64 or 128 on a GPU");
}

}  // namespace pqcache::attention
