#include "pqcache/base/isa.h"

#include <cstdlib>
#include <string>

namespace pqcache {
namespace {

constexpr const char* kVariable = "PQCACHE_FORCE_ISA";

Isa Widest() {
  Isa widest = Isa::kScalar;
  for (const Isa isa : kIsas) {
    if (IsaSupported(isa)) widest = isa;
  }
  return widest;
}

Result<Isa> Choose() {
  const char* forced = std::getenv(kVariable);
  if (forced == nullptr || *forced == '\0') return Widest();
  std::string known;
  for (const Isa isa : kIsas) {
    if (!IsaSupported(isa)) continue;
    if (IsaName(isa) == forced) return isa;
    known += (known.empty() ? "" : ", ") + std::string(IsaName(isa));
  }
  return Status::InvalidArgument(std::string(kVariable) + " is '" + forced +
                                 "', expected one that this CPU has: " + known);
}

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Vbmi:
      return "avx512_vbmi";
  }
  return "unknown";
}

bool IsaSupported(Isa isa) {
#ifdef __x86_64__
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
      return IsaSupported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case Isa::kAvx512Vbmi:
      return IsaSupported(Isa::kAvx512) && __builtin_cpu_supports("avx512vbmi");
  }
#endif
  return isa == Isa::kScalar;
}

Isa ActiveIsa() {
  static const Isa chosen = [] {
    const Result<Isa> choice = Choose();
    return choice.ok() ? *choice : Widest();
  }();
  return chosen;
}

Status CheckForcedIsa() { return Choose().status(); }

}  // namespace pqcache
