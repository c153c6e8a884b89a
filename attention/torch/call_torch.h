#pragma once

// The one place where libtorch's exceptions become a Status.

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <string>

#include "pqcache/base/status.h"

namespace pqcache::attention {

// Runs fn(); a c10::Error or std::exception becomes kInternal with the first line of its message.
template <typename Fn>
Status CallTorch(const Fn& fn) {
  try {
    fn();
    return Status::Ok();
  } catch (const std::exception& e) {
    const std::string what = e.what();
    return Status::Internal("libtorch: " + what.substr(0, what.find('\n')));
  }
}

}  // namespace pqcache::attention
