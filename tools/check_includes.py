#!/usr/bin/env python3
"""Checks who includes whom, and a few more rules of the house.

usage: check_includes.py ROOT

A rule that nothing checks is broken within a month; these are the ones that keep the layers apart.
Prints every breach and exits 1 if there is one.
"""

import pathlib
import re
import sys

# Folder: (folders it may include besides itself, third-party headers its .cpp files may include).
RULES = {
    "pqcache/base": ([], ["nlohmann/", "openssl/", "xxhash.h", "omp.h"]),
    "pqcache/index": (["pqcache/base"], ["faiss/", "immintrin.h"]),
    "pqcache/policy": (["pqcache/base"], []),
    "pqcache/cache": (["pqcache/base", "pqcache/index", "pqcache/policy"], []),
    "storage": (["pqcache/base", "pqcache/cache/page_store.h", "pqcache/cache/page_codec.h",
                 "pqcache/cache/manifest.h", "pqcache/cache/context_catalog.h"],
                ["rocksdb/", "hiredis/", "openssl/", "netinet/", "arpa/"]),
    "train": (["pqcache/base", "pqcache/index"], ["faiss/"]),
    "attention/model": (["pqcache/base"], []),
    "attention/tokenizer": (["pqcache/base"], ["utf8proc.h"]),
    "attention/kernels": (["pqcache/base"], ["cuda"]),
    "attention/gpu": (["pqcache/base", "pqcache/index", "pqcache/policy", "attention/kernels"], []),
    "attention/torch": (["pqcache/base", "pqcache/index", "attention", "attention/gpu",
                         "attention/kernels", "attention/model", "attention/decoder/weights.h",
                         "attention/decoder/weight_loader.h"],
                        ["ATen/", "c10/", "omp.h", "torch/version.h"]),
    "attention/decoder": (["pqcache", "attention", "attention/model", "attention/torch"], []),
    "attention": (["pqcache", "attention/model"], []),
    "tools": (["pqcache", "attention", "storage", "train", "tools/eval", "tools/report"],
              ["CLI/"]),
    "tools/eval": (["pqcache", "attention", "attention/decoder", "attention/tokenizer", "storage",
                    "tools"], []),
    "tools/report": (["pqcache/base"], []),
    "tests": (["pqcache", "attention", "storage", "train", "tools"],
              ["gtest/", "gmock/", "faiss/", "rocksdb/", "omp.h", "xxhash.h"]),
}
# Headers of the C and C++ libraries and of the system that need no permission.
SYSTEM = re.compile(r"^([a-z0-9_]+|sys/[a-z]+\.h|(errno|fcntl|netdb|poll|grp|unistd|stdlib|signal|stdio|spawn|dlfcn)\.h)$")
# The only files that may catch exceptions: where a library's become a Status.
CATCHERS = {"attention/torch/call_torch.h", "train/kmeans_faiss.cpp",
            "train/faiss_selection.cpp", "tools/cli.cpp",
            "storage/rocksdb_call.cpp"}
FOLDERS = ["pqcache", "attention", "storage", "train", "tools", "tests"]
CLASS = re.compile(r"^(?:class|struct) (\w+)\b(?!::)[^;{]*\{", re.MULTILINE)
NAMESPACE = re.compile(r"^namespace ([\w:]+) \{", re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)


def rule_of(path):
    """The longest folder of RULES that holds the file."""
    for folder in sorted(RULES, key=len, reverse=True):
        if path.startswith(folder + "/"):
            return folder
    return None


def allowed_own(folder, target):
    parent = target.rsplit("/", 1)[0]
    if parent == folder or (folder == "tests" and target.startswith("tests/")):
        return True
    for rule in RULES[folder][0]:
        if target == rule or parent == rule:
            return True
        # A whole subtree, unless its folders have rules of their own that are not named.
        if parent.startswith(rule + "/") and (rule == "pqcache" or folder in ("tools", "tests")):
            return True
    return False


def check_file(root, path):
    text = (root / path).read_text(encoding="utf-8")
    folder = rule_of(path)
    is_header = path.endswith(".h")
    if is_header and not text.startswith("#pragma once\n"):
        yield "a header begins with #pragma once"
    if "using namespace" in text and folder != "tests":
        yield "using namespace"
    if re.search(r"\bcatch\s*\(", text) and path not in CATCHERS and folder != "tests":
        yield "catches an exception; only " + ", ".join(sorted(CATCHERS)) + " may"
    for kind, target in INCLUDE.findall(text):
        if kind == '"':
            if "../" in target or not (root / target).is_file():
                yield f'"{target}" is not a path from the root'
            elif not allowed_own(folder, target):
                yield f"{folder} may not include {target}"
        elif not SYSTEM.match(target):
            third_party = RULES[folder][1]
            if target.startswith("cuda") and not path.endswith((".cu", ".cuh")):
                yield f"<{target}> belongs into a .cu"
            if not any(target.startswith(prefix) for prefix in third_party):
                yield f"{folder} may not include <{target}>"
            elif is_header and folder not in ("tests", "attention/torch"):
                yield f"<{target}> belongs into a .cpp"


def classes_of(text):
    """Names that a header defines, with its namespace."""
    namespace = NAMESPACE.search(text)
    return [(namespace.group(1) if namespace else "", name) for name in CLASS.findall(text)]


def main():
    root = pathlib.Path(sys.argv[1])
    breaches = 0
    files = 0
    definers = {}
    for top in FOLDERS:
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in (".h", ".cpp", ".cu", ".cuh"):
                continue
            path = file.relative_to(root).as_posix()
            files += 1
            messages = list(check_file(root, path))
            for name in classes_of(file.read_text(encoding="utf-8")) if file.suffix == ".h" else []:
                # Two classes of one name in a program: the linker keeps one's functions for both.
                if definers.setdefault(name, path) != path:
                    messages.append(f"{'::'.join(name)} is also defined in {definers[name]}")
            for message in messages:
                print(f"{path}: {message}")
                breaches += 1
    print(f"{files} files, {breaches} breaches")
    return 1 if breaches or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
