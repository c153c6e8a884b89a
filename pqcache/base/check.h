#pragma once

// PQCACHE_CHECK: for faults that the caller could have prevented by reading the header. Prints
// file, line, condition and message, then aborts. PQCACHE_DCHECK vanishes in release builds.

namespace pqcache {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const char* message);

}  // namespace pqcache

#define PQCACHE_CHECK(condition, message) \
  ((condition) ? (void)0 : ::pqcache::CheckFailed(__FILE__, __LINE__, #condition, message))

#ifdef NDEBUG
#define PQCACHE_DCHECK(condition, message) ((void)sizeof(condition))
#else
#define PQCACHE_DCHECK(condition, message) PQCACHE_CHECK(condition, message)
#endif
