#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two layers must not define the same global name: with static libraries the linker takes the first
that it meets, and says nothing.

  tools/check-symbols.py [BUILD_DIR]      (default: $BUILD_DIR, or build)
"""
import collections
import os
import pathlib
import subprocess
import sys

DEFINED = "TDBRVW"


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BUILD_DIR", "build"))
    archives = sorted((build / "src").glob("lib*.a"))
    if not archives:
        sys.exit(f"check-symbols: no libraries in {build}/src: build first")
    homes = collections.defaultdict(set)
    for archive in archives:
        listing = subprocess.run(["nm", "-A", "-g", "--defined-only", str(archive)], check=True,
                                 capture_output=True, text=True).stdout
        for line in listing.splitlines():
            where, _, symbol = line.rpartition(":")
            fields = symbol.split()
            if len(fields) == 3 and fields[1] in DEFINED:
                homes[fields[2]].add(where.rsplit("/", 1)[-1])
    twice = {name: places for name, places in homes.items() if len(places) > 1}
    for name, places in sorted(twice.items()):
        print(f"{name}: defined in {' and '.join(sorted(places))}")
    return 1 if twice else 0


if __name__ == "__main__":
    sys.exit(main())
