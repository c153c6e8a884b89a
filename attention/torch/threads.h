#pragma once

#include <string>

namespace pqcache::attention {

// libtorch and OpenMP libraries run with one thread each under ThreadPool's own; call it first
// thing in main, before any tensor operation.
void UseOneTorchThread();

// Of libtorch's headers, e.g. "1.13.0".
std::string TorchVersion();

}  // namespace pqcache::attention
