#pragma once

namespace pqcache::attention {

// libtorch and OpenMP libraries run with one thread each under ThreadPool's own; call it first
// thing in main, before any tensor operation.
void UseOneTorchThread();

}  // namespace pqcache::attention
