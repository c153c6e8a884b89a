#!/usr/bin/env bash
# The main job on a fresh machine: install what is missing, build, train codebooks for the demo
# model without any data, answer a question over a 16,000-token prompt that lies in RocksDB,
# selecting 2 % of it per step (first tokens and recent window come on top), and compare with exact
# attention.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/install_packages.sh
install_packages "${PQCACHE_PACKAGES[@]}"

cmake --preset default >/dev/null
cmake --build build --target pqcache_program

program=build/pqcache
model=tools/demo/model
out=build/quickstart
mkdir -p "$out"
started=$(date +%s)

echo
echo "== 1. train: the model writes its own text, its keys become codebooks"
"$program" train -m "$model" --text self --tokens 32000 --pq 16x8 --overwrite -o "$out/demo.pqcb"

# One sentence to find, in a haystack of noise.
python3 - "$out/prompt.txt" <<'PROMPT'
import sys
noise = ("The grass is green. The sky is blue. The sun is yellow. Here we go. "
         "There and back again. ")
subject = "special magic number for violet-meadow mentioned in the provided text"
with open(sys.argv[1], "w", encoding="utf-8") as out:
    out.write(noise * 200)
    out.write("\nOne of the special magic numbers for violet-meadow is: 8305172.\n")
    out.write(noise * 348)
    out.write(f"\nWhat is the {subject}? The {subject} is")
PROMPT

echo
echo "== 2. generate: keys and values in RocksDB pages, 2 % of the context selected per step"
"$program" generate -m "$model" --codebooks "$out/demo.pqcb" -f "$out/prompt.txt" -n 8 \
  --attn-ratio 0.02 --tail estimate --store "memory:limit=32M+rocksdb:path=$out/pages" --json >"$out/generate.json"

echo
echo "== 3. check: the same tokens through exact attention, side by side"
"$program" check -m "$model" --codebooks "$out/demo.pqcb" -f "$out/prompt.txt" --ctx 15900 \
  --last 24 --attn-ratio 0.02 --tail estimate --json >"$out/check.json" || true  # the table says what failed

python3 tools/quickstart_table.py "$out/generate.json" "$out/check.json"
echo "train, generate and check took $(($(date +%s) - started)) s"
