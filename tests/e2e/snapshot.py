#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""snapshot.py PID: prints all that must be the same before and after a visit, for each task of the
tree below PID: maps, area flags, descriptors, timers, limits, status lines, and for each thread its
name, masks, credentials and the system call that it sleeps in. Equal states print equal texts."""
import os
import re
import sys
import time

# Lines that change by themselves.
STATUS_SKIP = re.compile(r"^(Vm|Rss|voluntary|nonvoluntary|State|SigQ|Mems|Cpus_allowed_list|Hugetlb)")
FDINFO_SKIP = re.compile(r"^(pos|ticks|it_value)")


def text(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError as error:
        return f"{path}: {error.strerror}\n"


def link(path):
    try:
        return os.readlink(path)
    except OSError as error:
        return error.strerror


def stat_fields(path, numbers):
    fields = ["", ""] + text(path).rpartition(") ")[2].split()
    return " ".join(fields[n - 1] for n in numbers if n <= len(fields))


def descendants(pid):
    yield pid
    for tid in listdir(f"/proc/{pid}/task"):
        for child in text(f"/proc/{pid}/task/{tid}/children").split():
            if child.isdigit():
                yield from descendants(int(child))


def listdir(path):
    try:
        return sorted(os.listdir(path), key=int)
    except OSError:
        return []


def sleeping_in(path):
    """System call, arguments, stack and instruction pointer; work has no stable answer."""
    for _ in range(50):
        answer = text(path)
        if not answer.startswith("running"):
            break
        time.sleep(0.004)
    # Any stop and go, not only ours, makes the kernel continue these by restart_syscall (219).
    return re.sub(r"^(7|35|202|219|230) ", "restartable ", answer.strip())


def thread(pid, tid):
    base = f"/proc/{pid}/task/{tid}"
    print(f"-- thread {tid}: {text(base + '/comm').strip()}: {sleeping_in(base + '/syscall')}")
    for line in text(base + "/status").splitlines():
        if not STATUS_SKIP.match(line):
            print(" ", line)
    # priority, nice, rt_priority, policy
    print("  scheduling", stat_fields(base + "/stat", [18, 19, 40, 41]))


def task(pid):
    base = f"/proc/{pid}"
    print(f"== task {pid}: session {stat_fields(base + '/stat', [5, 6])}")
    for line in text(base + "/smaps").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ |VmFlags", line):
            print(line)
    for fd in listdir(base + "/fd"):
        print(f"fd {fd}: {link(base + '/fd/' + fd)}")
        for line in text(base + "/fdinfo/" + fd).splitlines():
            if not FDINFO_SKIP.match(line):
                print(" ", line)
    for name in ("timers", "limits", "personality", "oom_score_adj"):
        print(name, text(f"{base}/{name}"))
    for name in ("cwd", "root", "exe"):
        print(name, link(f"{base}/{name}"))
    print("image", stat_fields(base + "/stat", [26, 27, 28] + list(range(45, 52))))
    for tid in listdir(base + "/task"):
        thread(pid, tid)


for pid in descendants(int(sys.argv[1])):
    task(pid)
