#!/usr/bin/env bash
# Installs what is missing, builds everything, runs every fuzz target for 20 s and all tests. The
# same locally and in CI.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/install_packages.sh
install_packages "${PQCACHE_PACKAGES[@]}"

cmake --preset default
cmake --build build
if command -v nvcc >/dev/null; then
  cmake --preset cuda
  cmake --build build-cuda --target pqcache_kernels
else
  echo "no nvcc: the CUDA code is not compiled" >&2
fi
tools/fuzz.sh 20
# Where a library does start OpenMP threads, waiting ones must not burn the cores of the others.
export OMP_WAIT_POLICY=passive
ctest --test-dir build --output-on-failure -j 2
