#pragma once

// PQCACHE_VECTOR_CLONES before a function: compile it for AVX-512, AVX2 and the base instruction
// set; the loader picks one. Sanitizers instrument the loader's picking and crash in it, so
// sanitized builds have the base version only; so have those that do not optimise, where helpers
// that are not inlined would take vectors in other places than the clones pass them.

#if defined(__OPTIMIZE__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__) && defined(__GNUC__) && !defined(__clang__)
#define PQCACHE_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PQCACHE_VECTOR_CLONES
#endif
