# Sourced by the scripts beside it: install_packages PACKAGES... makes sure that compilers and
# libraries are there. Debian 12 or newer; asks for root only when something is missing.

PQCACHE_PACKAGES=(
  g++ cmake ninja-build python3 ca-certificates
  libtorch-dev libfaiss-dev librocksdb-dev libopenblas0-openmp liblapack-dev
  libgtest-dev nlohmann-json3-dev libcli11-dev libxxhash-dev libutf8proc-dev libssl-dev
  libhiredis-dev redis-server openssl libjemalloc-dev
)
# libFuzzer's compiler, its OpenMP, and what puts names into its stack traces.
PQCACHE_FUZZ_PACKAGES=(clang libclang-rt-dev libomp-dev llvm)

install_packages() {
  local missing=() package
  for package in "$@"; do
    if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
      missing+=("$package")
    fi
  done
  if [ ${#missing[@]} -eq 0 ]; then return; fi
  echo "installing: ${missing[*]}" >&2
  local root=()
  if [ "$(id -u)" -ne 0 ]; then root=(sudo); fi
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
