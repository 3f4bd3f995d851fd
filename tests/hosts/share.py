#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shares a folder of one host with the other, as a network file system does.

  share.py PID PID FOLDER

Mounts FOLDER, as the mount namespace of the first process has it, at FOLDER in that of the second.
"""
import ctypes
import os
import sys

OPEN_TREE, MOVE_MOUNT = 428, 429
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC, MOVE_MOUNT_F_EMPTY_PATH = 1, os.O_CLOEXEC, 4
AT_FDCWD, CLONE_NEWNS = -100, 0x20000

libc = ctypes.CDLL(None, use_errno=True)


def must(result, what):
    if result < 0:
        sys.exit(f"share: {what}: {os.strerror(ctypes.get_errno())}")
    return result


def main():
    source, target, folder = sys.argv[1:]
    spaces = [os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC) for pid in (source, target)]
    path = os.fsencode(folder)
    must(libc.setns(spaces[0], CLONE_NEWNS), f"enter the mounts of {source}")
    tree = must(libc.syscall(OPEN_TREE, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), folder)
    must(libc.setns(spaces[1], CLONE_NEWNS), f"enter the mounts of {target}")
    must(libc.syscall(MOVE_MOUNT, tree, b"", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH), folder)


main()
