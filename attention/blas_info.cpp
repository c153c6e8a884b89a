#include "attention/blas_info.h"

#include <dlfcn.h>

#include <filesystem>
#include <string_view>
#include <system_error>

namespace pqcache::attention {

BlasInfo DescribeBlas() {
  BlasInfo info;
  Dl_info found;
  void* const sgemm = ::dlsym(RTLD_DEFAULT, "sgemm_");
  if (sgemm == nullptr || ::dladdr(sgemm, &found) == 0) return info;
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(found.dli_fname, error);
  info.library = error ? found.dli_fname : path.string();
  // Only this library and those it needs: another OpenBLAS may be loaded as well.
  void* const library = ::dlopen(found.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return info;
  using GetConfig = char* (*)();
  const auto get_config = reinterpret_cast<GetConfig>(::dlsym(library, "openblas_get_config"));
  if (get_config != nullptr) info.config = get_config();
  ::dlclose(library);
  return info;
}

std::string BetterBlasCore(const BlasInfo& blas, Isa isa) {
  constexpr std::string_view kWithoutAvx[] = {"Prescott",   "Core2",   "Penryn",
                                              "Dunnington", "Nehalem", "Atom"};
  if (isa < Isa::kAvx2) return "";
  for (const std::string_view core : kWithoutAvx) {
    if (blas.config.find(" " + std::string(core) + " ") != std::string::npos) {
      return isa >= Isa::kAvx512 ? "SkylakeX" : "Haswell";
    }
  }
  return "";
}

}  // namespace pqcache::attention
