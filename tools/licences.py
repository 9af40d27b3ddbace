#!/usr/bin/env python3
"""Checks every dependency's licence: cargo metadata --format-version 1 | tools/licences.py

Each package must offer a choice that is allowed in whole. Exit status 1 names those that do not.
"""

import json
import re
import sys

# Permissive, and compatible with both MIT and Apache-2.0.
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "WTFPL",
    "Zlib",
}


def is_allowed(expression):
    """Judges an SPDX expression; `/` is the old way to write OR."""
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    allowed = any_of(tokens)
    if tokens:
        raise ValueError(expression)
    return allowed


def any_of(tokens):
    """AND binds tighter than OR (SPDX, annex D). Each part is read even where the first decides."""
    allowed = all_of(tokens)
    while tokens and tokens[0] == "OR":
        tokens.pop(0)
        allowed |= all_of(tokens)
    return allowed


def all_of(tokens):
    allowed = one(tokens)
    while tokens and tokens[0] == "AND":
        tokens.pop(0)
        allowed &= one(tokens)
    return allowed


def one(tokens):
    name = tokens.pop(0)
    if name == "(":
        allowed = any_of(tokens)
        tokens.pop(0)
        return allowed
    if tokens and tokens[0] == "WITH":
        name = " ".join([name, tokens.pop(0), tokens.pop(0)])
    return name in ALLOWED


def check_the_judge():
    assert is_allowed("MIT OR GPL-3.0-only") and is_allowed("MIT/Apache-2.0")
    assert not is_allowed("MIT AND GPL-3.0-only") and not is_allowed("GPL-3.0-only")
    assert is_allowed("(MIT OR GPL-3.0-only) AND Unicode-3.0")
    assert is_allowed("GPL-2.0 OR Apache-2.0 WITH LLVM-exception")


def main():
    check_the_judge()
    packages = json.load(sys.stdin)["packages"]
    refused = [it for it in packages if not is_allowed(it.get("license") or "none stated")]
    for it in refused:
        print(f"{it['name']} {it['version']}: {it.get('license') or 'no licence stated'}", file=sys.stderr)
    print(f"{len(packages)} packages, {len(refused)} with a licence that is not allowed")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
