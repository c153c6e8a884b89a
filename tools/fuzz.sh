#!/usr/bin/env bash
# Installs what is missing, builds the fuzz targets and runs them, one per core at a time.
# usage: tools/fuzz.sh [SECONDS_EACH [TARGET...]]     for example: tools/fuzz.sh 600 page manifest
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/install_packages.sh
install_packages "${PQCACHE_PACKAGES[@]}" "${PQCACHE_FUZZ_PACKAGES[@]}"

export seconds=${1:-30}
if [ $# -gt 1 ]; then
  targets=("${@:2}")
else
  mapfile -t targets < <(basename -s _fuzz.cpp tests/fuzz/*_fuzz.cpp)
fi
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz

seeds_of() {
  case $1 in
    codebook) echo tests/golden/codebook_*.pqcb ;;
    manifest) echo tests/golden/manifest_*.bin ;;
    model_config) echo tests/fixtures/hf/*/config.json tools/demo/model/config.json ;;
    page) echo tests/golden/page_*.bin ;;
    *) echo tests/fuzz/seeds/"$1"/* ;;
  esac
}

run_target() {
  local name=$1 program=build-fuzz/fuzz/$1_fuzz log=build-fuzz/fuzz/$1.log seeds found
  local corpus=build-fuzz/fuzz/corpus/$name findings=build-fuzz/fuzz/findings/$name
  local limits=(-rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=10)
  mkdir -p "$corpus" "$findings"
  read -ra seeds <<<"$(seeds_of "$name")"
  if "$program" "${limits[@]}" -max_len=4096 -max_total_time="$seconds" \
      -seed_inputs="$(IFS=,; echo "${seeds[*]}")" -artifact_prefix="$findings/" "$corpus" \
      >"$log" 2>&1; then
    echo "$name: $(grep -E '^#[0-9]+.*DONE' "$log")"
    return
  fi
  found=$(sed -n "s|.*Test unit written to ||p" "$log" | tail -1)
  tail -n 60 "$log"
  echo "$name: FINDING. Again: $program ${limits[*]} ${found:-(see $log)}"
  return 1
}
export -f seeds_of run_target
export UBSAN_OPTIONS=print_stacktrace=1
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -euo pipefail -c 'run_target {}'
