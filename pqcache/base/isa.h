#pragma once

// Which bodies of the hand-written loops run: the widest that the CPU has, or those that the
// environment variable PQCACHE_FORCE_ISA names. Chosen once per process; thread-safe.

#include <span>
#include <string_view>

#include "pqcache/base/status.h"

namespace pqcache {

// Each has what those before it have.
enum class Isa {
  kScalar,      // what every CPU of this build has; the oracle of the others
  kAvx2,        // AVX2 and FMA
  kAvx512,      // AVX-512 F, BW, DQ and VL (Skylake-SP and later)
  kAvx512Vbmi,  // VBMI (Ice Lake, Zen 4 and later)
};

inline constexpr Isa kIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vbmi};

std::string_view IsaName(Isa isa);  // "scalar", "avx2", "avx512", "avx512_vbmi"
bool IsaSupported(Isa isa);

// Of a process whose PQCACHE_FORCE_ISA cannot be followed, the widest.
Isa ActiveIsa();

// InvalidArgument if PQCACHE_FORCE_ISA names no ISA, or one that this CPU lacks.
Status CheckForcedIsa();

// Of bodies for rising instruction sets, the first for kScalar, the one that runs under `isa`.
template <typename Body>
const Body& BodyFor(std::span<const Body> bodies, Isa isa = ActiveIsa()) {
  size_t best = 0;
  for (size_t i = 0; i < bodies.size(); ++i) {
    if (bodies[i].isa <= isa) best = i;
  }
  return bodies[best];
}

}  // namespace pqcache
