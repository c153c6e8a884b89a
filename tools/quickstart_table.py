#!/usr/bin/env python3
"""Prints what quickstart.sh measured. usage: quickstart_table.py GENERATE.json CHECK.json"""

import json
import sys

EXPECTED = "8305172"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        run = json.load(file)
    with open(sys.argv[2], encoding="utf-8") as file:
        check = json.load(file)
    attention = run["attention"]
    attended = attention["always"] + attention["selected"]
    found = EXPECTED in run["text"]
    full, resident = run["kv_bytes_full"], run["kv_bytes_resident"]
    steps = max(1, run["new_tokens"] - 1)
    rows = [
        ("the number hidden in the prompt", EXPECTED),
        ("the model's answer", run["text"].strip().split("\n")[0]),
        ("tokens in the prompt", f"{run['prompt_tokens']:,}"),
        ("tokens attended per step", f"{attended:,.0f} ({100 * attended / run['prompt_tokens']:.1f} %)"),
        ("keys and values in all", f"{full / 2**20:.0f} MiB"),
        ("of them in memory, with their codes", f"{resident / 2**20:.0f} MiB"),
        ("read from RocksDB per token", f"{run['bytes_read']['rocksdb'] / steps / 2**20:.1f} MiB"),
        ("time to the first token", f"{run['ttft_ms'] / 1000:.1f} s"),
        ("time per further token", f"{run['tpot_ms']:.0f} ms"),
        ("next token equal to exact attention's", f"{100 * check['top1_agreement']:.0f} %"),
        ("perplexity exact / this policy", f"{check['ppl_exact']:.3f} / {check['ppl_policy']:.3f}"),
        ("exact path against double precision", f"{check['reference_deviation']:.0e}"),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    faults = check["failed"] + ([] if found else ["the answer is not the hidden number"])
    passed = not faults
    print("\n  everything as expected\n" if passed else "\n  NOT as expected: " + "; ".join(faults))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
