#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads files cold or warm, as bench/lazyfs.sh and bench/lazyfs-far.sh want it: lazyfs_measure.py DIRECTORY CASE MEGABYTES.

The directory has a file "large" of that size and "small1" to "small300". Prints the seconds that it took.
"""
import os
import random
import sys
import time


def sequential(top):
    with open(top + "/large", "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def at_random(top, megabytes):
    numbers = random.Random(3)
    fd = os.open(top + "/large", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for _ in range(500):
        os.pread(fd, 4096, numbers.randrange(megabytes << 8) << 12)


def small(top):
    for i in range(1, 301):
        with open(f"{top}/small{i}", "rb") as file:
            file.read()


def main():
    top, case, megabytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.listdir(top)
    begin = time.monotonic()
    if case in ("sequential", "warm"):
        sequential(top)
    elif case == "random":
        at_random(top, megabytes)
    else:
        small(top)
    print(time.monotonic() - begin)


main()
