#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes an input of the fuzzer "snapshot" from a directory of images, without their pages.

  tests/fuzz/pack.py DIR >tests/fuzz/corpus/snapshot/NAME
"""
import pathlib
import re
import struct
import sys

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.img")):
    if not re.match(r"pages-\d+\.img$", path.name):
        data = path.read_bytes()
        sys.stdout.buffer.write(path.name.encode() + b"\0" + struct.pack("<I", len(data)) + data)
