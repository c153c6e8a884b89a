#pragma once

// Which bodies of the hand-written loops run: the widest that the CPU has, or those that the
// environment variable PQCACHE_FORCE_ISA names. Chosen once per process; thread-safe.

#include <string_view>

#include "pqcache/base/status.h"

namespace pqcache {

enum class Isa {
  kScalar,  // what every CPU of this build has; the oracle of the others
  kAvx2,    // AVX2 and FMA
  kAvx512,  // AVX-512 F, BW, DQ, VL and VBMI (Ice Lake, Zen 4 and later)
};

inline constexpr Isa kIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512};

std::string_view IsaName(Isa isa);  // "scalar", "avx2", "avx512"
bool IsaSupported(Isa isa);

// Of a process whose PQCACHE_FORCE_ISA cannot be followed, the widest.
Isa ActiveIsa();

// InvalidArgument if PQCACHE_FORCE_ISA names no ISA, or one that this CPU lacks.
Status CheckForcedIsa();

}  // namespace pqcache
